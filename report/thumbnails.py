"""Small copies of images as data URLs, so that a page needs no other file."""

from __future__ import annotations

import base64
import io

from PIL import Image, ImageOps

from config.errors import StorageError
from report.content import Picture
from storage.root import Root

SIDE = 360  # pixels of the longer side, at most: twice what a page shows, for dense screens
LOSSLESS = 128  # a picture no larger than this stays PNG: it may be a drawing
QUALITY = 80


def thumbnail(root: Root, path: str) -> Picture:
    """An upright copy of one of the root's images; a picture with its fault where it has none.

    The copy is encoded anew, so nothing of the file but its pixels reaches the page.
    """
    try:
        with Image.open(io.BytesIO(root.read_bytes(path))) as opened:
            opened.draft("RGB", (SIDE, SIDE))  # a large JPEG is decoded smaller at once
            upright = ImageOps.exif_transpose(opened)
            copy = upright.convert("RGB")
    except (StorageError, OSError, ValueError, Image.DecompressionBombError) as error:
        return Picture(None, fault=f"{type(error).__name__}: {path} cannot be shown")
    copy.thumbnail((SIDE, SIDE))
    out = io.BytesIO()
    kind = "PNG" if max(copy.size) <= LOSSLESS else "JPEG"
    copy.save(out, kind, **({} if kind == "PNG" else {"quality": QUALITY}))
    encoded = base64.b64encode(out.getvalue()).decode()
    return Picture(f"data:image/{kind.lower()};base64,{encoded}", *copy.size)
