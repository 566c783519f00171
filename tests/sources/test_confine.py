from __future__ import annotations

import os
from pathlib import Path

import pytest

from config.errors import RefusedImage
from sources import confine
from sources.confine import Confine


@pytest.fixture
def places(tmp_path: Path) -> Path:
    """in/a.png and in/deep/b.png are allowed, out/secret.png is not."""
    for name in ("in/a.png", "in/deep/b.png", "out/secret.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(name.encode())
    return tmp_path


def refusal(confined: Confine, base: Path, given: str | Path) -> str:
    with pytest.raises(RefusedImage) as caught:
        confined.read(base, given)
    return caught.value.reason


def test_files_below_an_allowed_folder_are_read(places: Path) -> None:
    confined = Confine([places / "in"])
    for given in ("deep/b.png", "./deep/../deep/b.png", str(places / "in/deep/b.png")):
        assert confined.resolve(places / "in", given) == (places / "in/deep/b.png").resolve()
        assert confined.read(places / "in", given).data == b"in/deep/b.png"
    os.utime(places / "in/a.png", ns=(5, 7_000_000_001))
    assert confined.read(places / "in", "a.png").mtime_ns == 7_000_000_001


@pytest.mark.parametrize("given", ["../out/secret.png", "deep/../../out/secret.png", "/etc/passwd"])
def test_paths_that_lead_outside_are_refused(places: Path, given: str) -> None:
    assert refusal(Confine([places / "in"]), places / "in", given) == "outside_allowed_folders"


def test_whether_a_file_outside_exists_is_not_told(places: Path) -> None:
    confined = Confine([places / "in"])
    assert refusal(confined, places / "in", "../out/gone.png") == "outside_allowed_folders"


def test_a_folder_whose_name_starts_alike_is_outside(places: Path) -> None:
    (places / "in2").mkdir()
    (places / "in2" / "x.png").touch()
    assert refusal(Confine([places / "in"]), places, "in2/x.png") == "outside_allowed_folders"


def test_links_are_judged_by_where_they_lead(places: Path) -> None:
    (places / "in" / "leaves.png").symlink_to(places / "out" / "secret.png")
    (places / "in" / "folder").symlink_to(places / "out")
    (places / "in" / "stays.png").symlink_to(places / "in" / "a.png")
    confined = Confine([places / "in"])
    assert refusal(confined, places / "in", "leaves.png") == "outside_allowed_folders"
    assert refusal(confined, places / "in", "folder/secret.png") == "outside_allowed_folders"
    assert confined.read(places / "in", "stays.png").data == b"in/a.png"
    both = Confine([places / "in", places / "out"])
    assert both.read(places / "in", "leaves.png").data == b"out/secret.png"


def test_an_allowed_folder_may_itself_be_a_link(places: Path) -> None:
    (places / "alias").symlink_to(places / "in")
    assert Confine([places / "alias"]).read(places / "alias", "a.png").data == b"in/a.png"


def test_nothing_is_allowed_by_default(places: Path) -> None:
    assert refusal(Confine([]), places / "in", "a.png") == "outside_allowed_folders"


@pytest.mark.parametrize("given", ["gone.png", "a.png/b.png", "a\0b.png", "a\ud800.png"])
def test_what_is_not_there_is_missing(places: Path, given: str) -> None:
    assert refusal(Confine([places / "in"]), places / "in", given) == "missing"


def test_only_regular_files_are_read(places: Path) -> None:
    os.mkfifo(places / "in" / "pipe.png")
    (places / "in" / "loop.png").symlink_to("loop.png")
    confined = Confine([places / "in", Path("/dev")])
    assert refusal(confined, places / "in", "pipe.png") == "unreadable_file"
    assert refusal(confined, places / "in", "deep") == "unreadable_file"
    assert refusal(confined, places / "in", "loop.png") == "unreadable_file"
    assert refusal(confined, places / "in", "x" * 5000) == "unreadable_file"
    assert refusal(confined, places / "in", "/dev/zero") == "unreadable_file"


def test_a_file_too_large_is_refused(places: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(confine, "MAX_FILE_BYTES", 5)
    assert refusal(Confine([places / "in"]), places / "in", "a.png") == "unreadable_file"


def exchange_before_opening(
    places: Path, monkeypatch: pytest.MonkeyPatch, name: str, target: Path
) -> None:
    """Between the check and the opening, `name` becomes a link to `target`."""
    really = os.open

    def exchanged(path: Path, flags: int) -> int:
        (places / name).rename(places / "aside")
        (places / name).symlink_to(target)
        return really(path, flags)

    monkeypatch.setattr(os, "open", exchanged)


def test_a_file_exchanged_for_a_link_is_refused(
    places: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exchange_before_opening(places, monkeypatch, "in/a.png", places / "out/secret.png")
    assert refusal(Confine([places / "in"]), places / "in", "a.png") == "unreadable_file"


def test_a_folder_exchanged_for_a_link_is_refused(
    places: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (places / "out" / "b.png").write_bytes(b"secret")
    exchange_before_opening(places, monkeypatch, "in/deep", places / "out")
    reason = refusal(Confine([places / "in"]), places / "in", "deep/b.png")
    assert reason == "outside_allowed_folders"
