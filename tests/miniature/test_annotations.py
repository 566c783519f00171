from __future__ import annotations

import json
from pathlib import Path

import pytest

from config.digest import image_digest
from config.errors import InputError
from miniature.annotations import (
    Annotation,
    load_annotations,
    photo_annotations,
    write_annotations,
)

DIGEST = "a" * 64


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    path = tmp_path / "annotations.jsonl"
    given = [Annotation(DIGEST, ("A dog.",), ("dog",), ("b" * 64,)), Annotation("c" * 64, ())]
    write_annotations(path, given)
    assert load_annotations(path) == given


def test_writing_the_same_again_leaves_the_file_untouched(tmp_path: Path) -> None:
    path = tmp_path / "annotations.jsonl"
    write_annotations(path, [Annotation(DIGEST, ("A dog.",))])
    before = path.stat()
    write_annotations(path, [Annotation(DIGEST, ("A dog.",))])
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    write_annotations(path, [Annotation(DIGEST, ("A cat.",))])
    assert load_annotations(path)[0].captions == ("A cat.",)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "line 2 is not JSON"),
        ("[1]", "holds a list"),
        ('{"sha256": "abc"}', "64 hex"),
        (f'{{"sha256": "{DIGEST}", "captions": "A dog."}}', '"captions"'),
        (f'{{"sha256": "{DIGEST}", "objects": [1]}}', '"objects"'),
    ],
)
def test_a_wrong_line_is_named(tmp_path: Path, line: str, said: str) -> None:
    path = tmp_path / "annotations.jsonl"
    path.write_text(f'{{"sha256": "{DIGEST}", "captions": []}}\n{line}\n')
    with pytest.raises(InputError, match=said) as caught:
        load_annotations(path)
    assert "line 2" in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.jsonl"):
        load_annotations(tmp_path / "none.jsonl")


def photo_folder(folder: Path, sha256: str | None = None) -> Path:
    (folder / "one.jpg").write_bytes(b"picture")
    record = {
        "file": "one.jpg",
        "captions": ["a dog "],
        "objects": None,
        "sha256": sha256 or image_digest(b"picture"),
    }
    (folder / "photos.jsonl").write_text(json.dumps(record) + "\n")
    return folder


def test_a_photo_without_listed_objects_has_its_captions(tmp_path: Path) -> None:
    [found] = photo_annotations(photo_folder(tmp_path))
    assert found == Annotation(image_digest(b"picture"), ("a dog ",), ())


def test_a_photo_that_is_not_the_one_recorded_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"one\.jpg has the digest"):
        photo_annotations(photo_folder(tmp_path, DIGEST))


def test_a_missing_photo_is_named(tmp_path: Path) -> None:
    (photo_folder(tmp_path) / "one.jpg").unlink()
    with pytest.raises(InputError, match=r"one\.jpg cannot be read"):
        photo_annotations(tmp_path)


def test_the_shared_photographs_are_annotated(photos: Path) -> None:
    found = photo_annotations(photos)
    assert len({annotation.sha256 for annotation in found}) == 118
    assert all(annotation.captions for annotation in found)
    assert found == load_annotations(photos / "photos.jsonl")
