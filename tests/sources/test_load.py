from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from config.errors import RefusedImage
from config.settings import Inputs
from sources.load import ImageLoader
from sources.records import BytesRef, ImageRef, PathRef, UrlRef

Encode = Callable[..., bytes]


def refusal(loader: ImageLoader, ref: ImageRef) -> RefusedImage:
    with pytest.raises(RefusedImage) as caught:
        loader.load(ref)
    return caught.value


def test_a_file_comes_with_its_size_and_time(tmp_path: Path, encode: Encode) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(encode("PNG"))
    loaded = ImageLoader(Inputs(), [tmp_path]).load(PathRef(path))
    assert loaded.data == encode("PNG")
    assert (loaded.name, loaded.size) == (str(path), len(encode("PNG")))
    assert loaded.mtime_ns == path.stat().st_mtime_ns
    assert (loaded.info.width, loaded.info.height) == (4, 2)


def test_bytes_are_judged_by_the_name_they_came_with(encode: Encode) -> None:
    loader = ImageLoader(Inputs(), [])
    loaded = loader.load(BytesRef(encode("PNG"), "deep/a.png"))
    assert (loaded.name, loaded.mtime_ns) == ("deep/a.png", None)
    assert loader.load(BytesRef(encode("PNG"), None)).name is None
    assert refusal(loader, BytesRef(encode("PNG"), "a.jpg")).reason == "wrong_extension"
    assert refusal(loader, BytesRef(b"", None)).reason == "empty"


def test_files_come_from_the_roots_and_the_allowed_folders_only(
    tmp_path: Path, encode: Encode
) -> None:
    for name in ("root", "allowed", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.png").write_bytes(encode("PNG"))
    loader = ImageLoader(Inputs(allowed_folders=[tmp_path / "allowed"]), [tmp_path / "root"])
    assert loader.load(PathRef(tmp_path / "root/a.png")).size > 0
    assert loader.load(PathRef(tmp_path / "root/../allowed/a.png")).size > 0
    other = refusal(loader, PathRef(tmp_path / "root/../other/a.png"))
    assert other.reason == "outside_allowed_folders"


def test_a_refusal_names_the_image_and_keeps_its_reason(tmp_path: Path, encode: Encode) -> None:
    (tmp_path / "a.jpg").write_bytes(encode("PNG"))
    refused = refusal(ImageLoader(Inputs(), [tmp_path]), PathRef(tmp_path / "a.jpg"))
    assert refused.reason == "wrong_extension"
    assert "a.jpg" in str(refused)
    refused = refusal(ImageLoader(Inputs(), [tmp_path]), PathRef(tmp_path / "gone.jpg"))
    assert refused.reason == "missing"


def test_the_settings_number_of_pixels_holds(encode: Encode) -> None:
    loader = ImageLoader(Inputs(max_pixels=7), [])
    assert refusal(loader, BytesRef(encode("PNG"), None)).reason == "decompression_bomb"


def test_urls_are_fetched_and_named_without_their_query(image_server: Any) -> None:
    inputs = Inputs(fetch_urls=True, allow_private_addresses=True)
    loader = ImageLoader(inputs, [])
    loaded = loader.load(UrlRef(image_server.url("image.php?key=s3cret")))
    assert loaded.data == image_server.png
    assert loaded.name == image_server.url("image.php")
    wrong = refusal(loader, UrlRef(image_server.url("image.jpg")))
    assert wrong.reason == "wrong_extension"
    assert refusal(ImageLoader(Inputs(), []), UrlRef("http://h/a")).reason == "url_not_allowed"
