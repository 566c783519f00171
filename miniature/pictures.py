"""The pictures of a request: data URLs, and files of one folder where that is allowed."""

from __future__ import annotations

import base64
import binascii
import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote, urlsplit

from miniature.refusal import ProtocolError


@dataclass(frozen=True, slots=True)
class Picture:
    """A file's bytes as they were sent, and their SHA-256 (64 hex)."""

    sha256: str
    data: bytes = field(repr=False)


def read_picture(url: str, media_folder: Path | None) -> Picture:
    """The picture of an image URL. Raises ProtocolError (400).

    `media_folder`: the folder whose files file:// URLs may name; None refuses them.
    """
    if url.startswith("data:"):
        data = _decoded(url)
    elif url.startswith("file://"):
        data = _local_file(url, media_folder)
    else:
        raise ProtocolError(
            400, f"image URL {url[:60]!r} is not fetched; send data: or file:// URLs"
        )
    return Picture(hashlib.sha256(data).hexdigest(), data)


def _decoded(url: str) -> bytes:
    head, comma, payload = url.partition(",")
    if not comma or not head.startswith("data:image/") or not head.endswith(";base64"):
        raise ProtocolError(400, f"image URL {url[:60]!r} is not data:image/...;base64,...")
    try:
        return base64.b64decode(payload, validate=True)
    except binascii.Error as error:
        raise ProtocolError(400, f"an image's base64 cannot be decoded: {error}") from error


def _local_file(url: str, media_folder: Path | None) -> bytes:
    if media_folder is None:
        raise ProtocolError(400, "Cannot load local files without --media-folder")
    path = Path(unquote(urlsplit(url).path)).resolve()
    if not path.is_relative_to(media_folder.resolve()):
        raise ProtocolError(400, f"{path} is outside --media-folder {media_folder}")
    try:
        return path.read_bytes()
    except OSError as error:
        raise ProtocolError(400, f"image file {path} cannot be read: {error}") from error
