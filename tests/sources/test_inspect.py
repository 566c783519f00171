from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile

from config.errors import RefusedImage
from sources.inspect import inspect_image, render_view, upright_rgb

MAX = 1_000_000
ORIENTATION = 0x0112
Encode = Callable[..., bytes]


def refusal(data: bytes, suffix: str | None = None, max_pixels: int = MAX) -> str:
    with pytest.raises(RefusedImage) as caught:
        inspect_image(data, suffix, max_pixels)
    return caught.value.reason


def noise(width: int = 64, height: int = 48) -> Image.Image:
    values = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values)


def oriented(value: int) -> Image.Exif:
    exif = Image.Exif()
    exif[ORIENTATION] = value
    return exif


@pytest.mark.parametrize(
    ("form", "suffix", "needs_view"),
    [
        ("JPEG", ".jpg", False),
        ("PNG", ".png", False),
        ("WEBP", ".webp", False),
        ("GIF", ".gif", False),
        ("BMP", ".bmp", True),
        ("TIFF", ".tif", True),
    ],
)
def test_formats(encode: Encode, form: str, suffix: str, needs_view: bool) -> None:
    info = inspect_image(encode(form), suffix.upper(), MAX)
    assert (info.format, info.suffix, info.width, info.height) == (form, suffix, 4, 2)
    assert info.needs_view is needs_view


@pytest.mark.parametrize("suffix", [".jpg", ".jpeg", ".JPE", "", None])
def test_endings_that_agree(encode: Encode, suffix: str | None) -> None:
    assert inspect_image(encode("JPEG"), suffix, MAX).suffix == ".jpg"


@pytest.mark.parametrize(("form", "suffix"), [("PNG", ".jpg"), ("JPEG", ".png"), ("PNG", ".txt")])
def test_an_ending_that_disagrees_is_refused(encode: Encode, form: str, suffix: str) -> None:
    assert refusal(encode(form), suffix) == "wrong_extension"


def test_an_empty_file_is_refused() -> None:
    assert refusal(b"") == "empty"
    with pytest.raises(RefusedImage, match="0 bytes"):
        upright_rgb(b"")


@pytest.mark.parametrize(
    "data", [b"hello, world", b"%!PS-Adobe-3.0 EPSF-3.0", b"<svg/>", b"PK\x03\x04", b"\0" * 4096]
)
def test_other_files_are_refused(data: bytes) -> None:
    assert refusal(data, ".jpg") == "not_an_image"


def test_decoders_that_are_not_listed_are_never_reached(encode: Encode) -> None:
    """The imaging library itself would read this one."""
    data = encode("PPM")
    assert Image.open(io.BytesIO(data)).format == "PPM"
    assert refusal(data) == "not_an_image"


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"])
@pytest.mark.parametrize("share", [0.4, 0.9])
def test_a_file_cut_off_is_refused(encode: Encode, form: str, share: float) -> None:
    data = encode(form, noise())
    assert refusal(data[: int(len(data) * share)]) == "truncated"
    with pytest.raises(RefusedImage):
        upright_rgb(data[: int(len(data) * share)])


def test_a_file_cut_off_within_its_header_is_refused_as_cut_off(encode: Encode) -> None:
    assert refusal(encode("JPEG")[:20]) == "truncated"
    assert refusal(encode("PNG")[:20]) == "truncated"


def test_truncated_images_can_never_be_let_through(
    encode: Encode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    with pytest.raises(RuntimeError, match="turn it off"):
        inspect_image(encode("PNG"), None, MAX)


def declared(encode: Encode, width: int, height: int) -> bytes:
    """A PNG of two pixels by four that declares another size."""
    data = bytearray(encode("PNG"))
    data[16:24] = struct.pack(">II", width, height)
    data[29:33] = struct.pack(">I", zlib.crc32(bytes(data[12:29])))
    return bytes(data)


def test_the_declared_size_is_judged_before_decoding(encode: Encode) -> None:
    assert refusal(encode("PNG"), max_pixels=7) == "decompression_bomb"
    assert inspect_image(encode("PNG"), None, 8).width == 4
    # Its pixels are not there: refused for its size, it was not decoded.
    assert refusal(declared(encode, 2000, 2000)) == "decompression_bomb"


def test_the_librarys_own_limit_holds_too(encode: Encode) -> None:
    assert refusal(declared(encode, 30_000, 30_000), max_pixels=10**12) == "decompression_bomb"


@pytest.mark.filterwarnings("error::PIL.Image.DecompressionBombWarning")
def test_the_librarys_warning_made_an_error_is_a_refusal(encode: Encode) -> None:
    assert refusal(declared(encode, 10_000, 10_000), max_pixels=10**12) == "decompression_bomb"


@pytest.mark.parametrize("form", ["GIF", "PNG", "WEBP", "TIFF"])
def test_several_pictures_are_refused(encode: Encode, form: str) -> None:
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    data = encode(form, frames[0], save_all=True, append_images=frames[1:])
    assert refusal(data) == "animated"
    with pytest.raises(RefusedImage):
        upright_rgb(data)


def test_the_first_picture_of_a_cameras_mpo_counts(encode: Encode) -> None:
    frames = [Image.new("RGB", (4, 2), "red"), Image.new("RGB", (8, 8), "blue")]
    data = encode("MPO", frames[0], save_all=True, append_images=frames[1:])
    info = inspect_image(data, ".jpg", MAX)
    assert (info.format, info.suffix, info.width, info.height) == ("MPO", ".jpg", 4, 2)
    red, _, blue = upright_rgb(data).getpixel((0, 0))
    assert red > 240 > 20 > blue


def test_32_bit_pixels_are_refused(encode: Encode) -> None:
    assert refusal(encode("TIFF", Image.new("F", (2, 2), 0.5))) == "unreadable_mode"
    assert refusal(encode("TIFF", Image.new("I", (2, 2), 70_000))) == "unreadable_mode"


# Where the red pixel of a 3 x 2 picture, stored top left, is seen under each orientation.
SEEN = {
    1: (3, 2, (0, 0)),
    2: (3, 2, (2, 0)),
    3: (3, 2, (2, 1)),
    4: (3, 2, (0, 1)),
    5: (2, 3, (0, 0)),
    6: (2, 3, (1, 0)),
    7: (2, 3, (1, 2)),
    8: (2, 3, (0, 2)),
}


@pytest.mark.parametrize("form", ["PNG", "TIFF"])
@pytest.mark.parametrize("orientation", SEEN)
def test_every_orientation_is_turned_upright(encode: Encode, form: str, orientation: int) -> None:
    stored = Image.new("RGB", (3, 2), "white")
    stored.putpixel((0, 0), (255, 0, 0))
    data = encode(form, stored, exif=oriented(orientation))
    width, height, place = SEEN[orientation]
    info = inspect_image(data, None, MAX)
    assert (info.width, info.height) == (width, height)
    assert info.needs_view is (orientation != 1 or form == "TIFF")
    upright = upright_rgb(data)
    assert upright.size == (width, height)
    assert upright.getpixel(place) == (255, 0, 0)
    assert sorted(upright.getcolors()) == [(1, (255, 0, 0)), (5, (255, 255, 255))]


def test_a_jpegs_orientation_counts(encode: Encode) -> None:
    data = encode("JPEG", noise(16, 8), exif=oriented(6))
    info = inspect_image(data, ".jpg", MAX)
    assert (info.width, info.height, info.needs_view) == (8, 16, True)


@pytest.mark.parametrize("value", [0, 9])
def test_an_orientation_that_is_none_is_taken_as_upright(encode: Encode, value: int) -> None:
    info = inspect_image(encode("PNG", exif=oriented(value)), None, MAX)
    assert (info.width, info.height, info.needs_view) == (4, 2, False)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_exif_that_cannot_be_read_says_nothing(encode: Encode) -> None:
    data = encode("JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    assert inspect_image(data, None, MAX).needs_view is False


def test_cmyk_keeps_its_colours(encode: Encode) -> None:
    """Cyan ink alone is the colour (0, 255, 255); JPEG stores it inverted, as Adobe does."""
    for form in ("JPEG", "TIFF"):
        data = encode(form, Image.new("CMYK", (16, 16), (255, 0, 0, 0)))
        info = inspect_image(data, None, MAX)
        assert (info.mode, info.needs_view) == ("CMYK", True)
        red, green, blue = upright_rgb(data).getpixel((8, 8))
        assert red < 5
        assert min(green, blue) > 250


def test_16_bit_grey_is_scaled_not_clipped(encode: Encode) -> None:
    """value * 255 / 65535, rounded: 0 -> 0, 257 -> 1, 32768 -> 128 (127.502), 65535 -> 255."""
    grey = Image.fromarray(np.array([[0, 257, 32768, 65535]], dtype=np.uint16))
    for form in ("PNG", "TIFF"):
        data = encode(form, grey)
        info = inspect_image(data, None, MAX)
        assert info.mode.startswith("I;16")
        assert info.needs_view is True
        seen = [upright_rgb(data).getpixel((x, 0)) for x in range(4)]
        assert seen == [(v, v, v) for v in (0, 1, 128, 255)]


def test_16_bit_grey_where_zero_is_white_is_inverted(encode: Encode) -> None:
    grey = Image.fromarray(np.array([[0, 65535]], dtype=np.uint16))
    plain = encode("TIFF", grey)
    entry = struct.pack("<HHI", 262, 3, 1)  # the tag PhotometricInterpretation: one short
    at = plain.index(entry) + len(entry)
    inverted = plain[:at] + struct.pack("<H", 0) + plain[at + 2 :]
    assert upright_rgb(plain).getpixel((0, 0)) == (0, 0, 0)
    assert upright_rgb(inverted).getpixel((0, 0)) == (255, 255, 255)
    assert upright_rgb(inverted).getpixel((1, 0)) == (0, 0, 0)


def test_transparency_lies_over_white(encode: Encode) -> None:
    """Half-transparent black (alpha 128) over white: 255 * (1 - 128 / 255) = 127."""
    rgba = Image.new("RGBA", (3, 1), (0, 0, 0, 0))
    rgba.putpixel((1, 0), (0, 0, 0, 128))
    rgba.putpixel((2, 0), (255, 0, 0, 255))
    for form in ("PNG", "WEBP"):
        options = {"lossless": True, "exact": True} if form == "WEBP" else {}
        data = encode(form, rgba, **options)
        assert inspect_image(data, None, MAX).needs_view is True
        seen = [upright_rgb(data).getpixel((x, 0)) for x in range(3)]
        assert seen == [(255, 255, 255), (127, 127, 127), (255, 0, 0)]


@pytest.mark.parametrize("mode", ["P", "L", "RGB", "1"])
def test_a_transparent_colour_lies_over_white(encode: Encode, mode: str) -> None:
    image = Image.new(mode, (2, 1), 0)
    image.putpixel((1, 0), (1, 2, 3) if mode == "RGB" else 1)
    if mode == "P":
        image.putpalette([0, 0, 0, 9, 9, 9])
    data = encode("PNG", image, transparency=(0, 0, 0) if mode == "RGB" else 0)
    assert inspect_image(data, None, MAX).needs_view is True
    assert upright_rgb(data).getpixel((0, 0)) == (255, 255, 255)
    assert encode("PNG", image) != data
    assert inspect_image(encode("PNG", image), None, MAX).needs_view is False


def test_a_transparent_16_bit_grey_lies_over_white(encode: Encode) -> None:
    grey = Image.fromarray(np.array([[256, 512]], dtype=np.uint16))
    data = encode("PNG", grey, transparency=256)
    assert upright_rgb(data).getpixel((0, 0)) == (255, 255, 255)
    assert upright_rgb(data).getpixel((1, 0)) == (2, 2, 2)


def test_the_view_is_the_upright_picture_without_metadata(encode: Encode) -> None:
    data = encode("JPEG", noise(16, 8), exif=oriented(6), icc_profile=b"profile")
    view = render_view(data)
    assert view == render_view(data)
    shown = Image.open(io.BytesIO(view))
    assert (shown.format, shown.mode, shown.size) == ("PNG", "RGB", (8, 16))
    assert np.array_equal(np.asarray(shown), np.asarray(upright_rgb(data)))
    assert "icc_profile" not in shown.info
    assert not shown.getexif()
    assert inspect_image(view, ".png", MAX).needs_view is False


MAGIC = [b"", b"\xff\xd8\xff\xe0", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"BM", b"II*\0", b"MM\0*"]


def only_refuses(data: bytes) -> None:
    """Whatever the bytes: an answer that holds, or a refusal."""
    try:
        info = inspect_image(data, None, MAX)
    except RefusedImage:
        return
    assert upright_rgb(data).size == (info.width, info.height)


@pytest.mark.filterwarnings("ignore")  # the imaging library's own, about the damage
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from([*MAGIC, b"RIFF\x20\0\0\0WEBPVP8 "]), st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(magic: bytes, rest: bytes) -> None:
    only_refuses(magic + rest)


@pytest.mark.filterwarnings("ignore")  # the imaging library's own, about the damage
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.sampled_from(["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"]),
    st.lists(st.tuples(st.floats(0, 0.999), st.integers(0, 255)), min_size=1, max_size=4),
)
def test_a_damaged_image_is_read_or_refused(
    encode: Encode, form: str, changes: list[tuple[float, int]]
) -> None:
    data = bytearray(encode(form))
    for share, value in changes:
        data[int(share * len(data))] = value
    only_refuses(bytes(data))
