"""Images by content: one file a SHA-256, unchanged, however many prompts and paths name it."""

from __future__ import annotations

import base64
from collections import OrderedDict

from storage.root import Root

SUFFIXES = {
    "JPEG": ".jpg",
    "PNG": ".png",
    "WEBP": ".webp",
    "GIF": ".gif",
    "BMP": ".bmp",
    "TIFF": ".tiff",
}
MEDIA_TYPES = {
    ".jpg": "image/jpeg",
    ".png": "image/png",
    ".webp": "image/webp",
    ".gif": "image/gif",
    ".bmp": "image/bmp",
    ".tiff": "image/tiff",
}


def image_path(digest: str, image_format: str) -> str:
    suffix = SUFFIXES.get(image_format, "." + image_format.lower())
    return f"images/{digest[:2]}/{digest}{suffix}"


def view_path(digest: str) -> str:
    return f"views/{digest[:2]}/{digest}.png"


class ImageStore:
    """Reads the image a model is given: the view where the file needs one, else the file.

    Where an image lies is told batch by batch, and the newest `remember` places are kept, so that
    memory does not grow with the dataset. The newest encoded images are kept too, because K
    samples of one row send the same image K times.
    """

    def __init__(self, root: Root, remember: int = 32_768, keep_encoded: int = 64) -> None:
        self._root = root
        self._locations: OrderedDict[str, str] = OrderedDict()
        self._remember = remember
        self._encoded: OrderedDict[str, str] = OrderedDict()
        self._keep_encoded = keep_encoded

    def locate(self, digest: str, relative: str) -> None:
        """Says where the file lies that is sent for an image."""
        self._locations[digest] = relative
        self._locations.move_to_end(digest)
        if len(self._locations) > self._remember:
            self._locations.popitem(last=False)

    def path(self, digest: str) -> str:
        """The root-relative path of what is sent, for a server that can read it itself."""
        return self._locations[digest]

    def full_path(self, digest: str) -> str:
        return self._root.url_of(self._locations[digest])

    def data_url(self, digest: str) -> str:
        found = self._encoded.get(digest)
        if found is None:
            relative = self._locations[digest]
            media_type = MEDIA_TYPES.get("." + relative.rsplit(".", 1)[-1], "image/png")
            data = base64.b64encode(self._root.read_bytes(relative)).decode()
            found = f"data:{media_type};base64,{data}"
            self._encoded[digest] = found
            if len(self._encoded) > self._keep_encoded:
                self._encoded.popitem(last=False)
        self._encoded.move_to_end(digest)
        return found
