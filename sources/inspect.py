"""Is this file a whole, still image, and can a model be handed its bytes as they are?

Formats read: JPEG (also a camera's multi-picture MPO, of which the first picture counts), PNG,
WebP, GIF, BMP, TIFF. No other decoder of the imaging library is ever reached.

A view, the upright 8-bit RGB picture as PNG, stands in for the stored bytes (`needs_view`) where
readers are known to disagree about them:

- the EXIF orientation is not 1: many readers ignore it;
- transparency: what lies behind is the reader's choice; here it is white;
- CMYK: many readers invert it, or refuse it;
- 16-bit greyscale: readers clip it to white instead of scaling it;
- BMP and TIFF: model servers often do not read them.

EXIF data that cannot be read says nothing: the picture is taken to be upright. Colour profiles
are not applied, as the image encoders' own preprocessing does not apply them either.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from PIL import ExifTags, Image, ImageFile

from config.errors import RefusedImage
from sources.records import shown

SUFFIXES = {  # the first is the one a stored file gets
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "MPO": (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"),
    "PNG": (".png",),
    "WEBP": (".webp",),
    "GIF": (".gif",),
    "BMP": (".bmp", ".dib"),
    "TIFF": (".tif", ".tiff"),
}
_DECODERS = tuple(name for name in SUFFIXES if name != "MPO")  # JPEG's finds an MPO itself
_SIGNATURES = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF8", b"II*\0", b"MM\0*")
SERVED_FORMATS = frozenset({"JPEG", "MPO", "PNG", "WEBP", "GIF"})
SERVED_MODES = frozenset({"1", "L", "P", "RGB"})
GREY_16 = frozenset({"I;16", "I;16L", "I;16B", "I;16N"})
ALPHA_MODES = frozenset({"LA", "La", "PA", "RGBA", "RGBa"})
CONVERTIBLE = SERVED_MODES | GREY_16 | ALPHA_MODES | {"CMYK", "YCbCr", "RGBX"}

_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_TIFF_BITS, _TIFF_PHOTOMETRIC, _WHITE_IS_ZERO = 258, 262, 0

# What the imaging library's decoders raise on bytes made to break them.
_DECODER_ERRORS = (
    OSError,
    EOFError,
    SyntaxError,
    ValueError,
    TypeError,
    LookupError,
    ArithmeticError,
    AttributeError,
    AssertionError,
    RuntimeError,
    MemoryError,
    struct.error,
    zlib.error,
)


@dataclass(frozen=True, slots=True)
class ImageInfo:
    """What an image file is. `width` and `height` are those of the upright picture, in pixels.

    `format` is the imaging library's name and `suffix` the usual ending of such a file; `mode` is
    that of the stored pixels; `needs_view`: hand a model `render_view` instead of the bytes.
    """

    format: str
    suffix: str
    width: int
    height: int
    mode: str
    needs_view: bool


def inspect_image(data: bytes, suffix: str | None, max_pixels: int) -> ImageInfo:
    """Decodes every pixel of an image file and says what it is.

    `suffix` is the ending of the file's name (".jpg", any case), None or "" where it has none.
    `max_pixels` is checked against the declared size before anything is decoded; the imaging
    library's own limit (about 179 million pixels) holds beside it. Raises RefusedImage: empty,
    not_an_image, wrong_extension, animated, decompression_bomb, unreadable_mode, truncated.
    """
    if not data:
        raise RefusedImage("empty", "the file is empty (0 bytes): expected an image")
    image = _open(data)
    name = image.format or ""
    _check_suffix(name, suffix)
    pixels = image.width * image.height
    if pixels > max_pixels:
        raise RefusedImage(
            "decompression_bomb",
            f"it declares {image.width} x {image.height} = {pixels} pixels; "
            f"at most {max_pixels} are read: make it smaller, or raise max_pixels",
        )
    _check_still(image, name)
    mode = image.mode  # before loading, which turns some modes into others
    orientation = _load(image)
    needs_view = (
        name not in SERVED_FORMATS
        or mode not in SERVED_MODES
        or orientation != 1
        or image.has_transparency_data
    )
    if needs_view:
        _to_rgb(image, orientation)  # so that nothing is left that could fail later
    width, height = image.size if orientation < 5 else image.size[::-1]
    return ImageInfo(name, SUFFIXES[name][0], width, height, mode, needs_view)


def upright_rgb(data: bytes) -> Image.Image:
    """The picture as it is meant to be seen: upright, 8-bit RGB, transparency over white.

    The first picture of an MPO. Raises RefusedImage where `inspect_image` would, except for the
    suffix and the number of pixels, which it alone checks: ask it first.
    """
    if not data:
        raise RefusedImage("empty", "the file is empty (0 bytes): expected an image")
    image = _open(data)
    _check_still(image, image.format or "")
    return _to_rgb(image, _load(image))


def render_view(data: bytes) -> bytes:
    """`upright_rgb` as PNG without metadata: the same bytes for the same image and library."""
    out = io.BytesIO()
    upright_rgb(data).save(out, format="PNG", compress_level=6)
    return out.getvalue()


def _open(data: bytes) -> Image.Image:
    if ImageFile.LOAD_TRUNCATED_IMAGES:
        raise RuntimeError(
            "PIL.ImageFile.LOAD_TRUNCATED_IMAGES is on: truncated images would pass; turn it off"
        )
    try:
        return Image.open(io.BytesIO(data), formats=_DECODERS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise RefusedImage("decompression_bomb", str(error)) from error
    except _DECODER_ERRORS as error:
        if data.startswith(_SIGNATURES) or (data[:4] == b"RIFF" and data[8:12] == b"WEBP"):
            raise RefusedImage(
                "truncated",
                f"it starts as an image but its header cannot be read ({len(data)} bytes): "
                "the file is cut off or damaged; get it again",
            ) from error
        raise RefusedImage(
            "not_an_image",
            f"the bytes start with {shown(data[:16])}; expected a {', '.join(_DECODERS)} file",
        ) from error


def _check_suffix(name: str, suffix: str | None) -> None:
    if suffix and suffix.lower() not in SUFFIXES[name]:
        raise RefusedImage(
            "wrong_extension",
            f"the name ends in {shown(suffix)} but the bytes are {name}: "
            f"rename it to {SUFFIXES[name][0]}",
        )


def _check_still(image: Image.Image, name: str) -> None:
    with _refusing("truncated"):
        several = name != "MPO" and getattr(image, "is_animated", False)
    if several:
        raise RefusedImage(
            "animated", f"the {name} holds several pictures; expected a still image of one"
        )
    if image.mode not in CONVERTIBLE:
        raise RefusedImage(
            "unreadable_mode",
            f"the {name} has pixels of mode {image.mode}, whose white is not known; "
            "convert it to 8-bit RGB",
        )


def _load(image: Image.Image) -> int:
    """Decodes every pixel. Returns the EXIF orientation that is still to be applied, 1 to 8."""
    with _refusing("truncated"):
        image.load()
    # Read last: PNG may hold it after the pixels, and TIFF is turned upright by loading it.
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    except _DECODER_ERRORS:
        return 1
    return orientation if orientation in _UPRIGHT else 1


def _to_rgb(image: Image.Image, orientation: int) -> Image.Image:
    with _refusing("unreadable_mode"):
        if image.mode in GREY_16:
            rgb = _grey_8(image).convert("RGB")
        elif image.has_transparency_data:
            rgba = image.convert("RGBA")
            rgb = Image.new("RGB", image.size, "white")
            rgb.paste(rgba, mask=rgba.getchannel("A"))
        else:
            rgb = image.convert("RGB")
        if orientation != 1:
            rgb = rgb.transpose(_UPRIGHT[orientation])
    plain = Image.new("RGB", rgb.size)  # without the metadata that saving would carry over
    plain.paste(rgb)
    return plain


def _grey_8(image: Image.Image) -> Image.Image:
    """16-bit greyscale scaled to 8 bits, white staying white; TIFF may use fewer of the 16."""
    tags = getattr(image, "tag_v2", {})
    white = 2 ** int(tags.get(_TIFF_BITS, (16,))[0]) - 1
    stored = np.asarray(image).astype(np.uint32)
    grey = ((np.minimum(stored, white) * 255 + white // 2) // white).astype(np.uint8)
    if tags.get(_TIFF_PHOTOMETRIC) == _WHITE_IS_ZERO:
        grey = 255 - grey
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        grey[stored == transparent] = 255
    return Image.fromarray(grey)


@contextmanager
def _refusing(reason: str) -> Iterator[None]:
    """Turns whatever a decoder raises into the refusal that fits where it happened."""
    try:
        yield
    except RefusedImage:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise RefusedImage("decompression_bomb", str(error)) from error
    except _DECODER_ERRORS as error:
        raise RefusedImage(
            reason,
            f"the pixels cannot all be decoded ({shown(str(error))}): "
            "the file is cut off or damaged; get it again",
        ) from error
