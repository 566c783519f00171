"""From a reference to an image's bytes, read safely and inspected."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from yarl import URL

from config.errors import RefusedImage
from config.settings import Inputs
from sources.confine import Confine
from sources.fetch import fetch_sync, shown_url
from sources.inspect import SUFFIXES, ImageInfo, inspect_image
from sources.records import BytesRef, ImageRef, PathRef, UrlRef, shown

_IMAGE_SUFFIXES = frozenset(suffix for suffixes in SUFFIXES.values() for suffix in suffixes)


@dataclass(frozen=True, slots=True)
class LoadedImage:
    """An image file that passed inspection.

    `name` is its path, URL (without query) or name in the input, None where it has none; `size`
    is in bytes; `mtime_ns` is None where it is no file.
    """

    data: bytes
    name: str | None
    size: int
    mtime_ns: int | None
    info: ImageInfo


class ImageLoader:
    """Loads images from below `roots` and `inputs.allowed_folders`, from bytes and from URLs.

    `roots` are the folders that the inputs themselves grant: `image_folder` of each. One loader
    may be used by many threads.
    """

    def __init__(self, inputs: Inputs, roots: Sequence[Path]) -> None:
        self._inputs = inputs
        self._confine = Confine([*roots, *inputs.allowed_folders])

    def load(self, ref: ImageRef) -> LoadedImage:
        """Raises RefusedImage for every image that is not to be used, with the reason.

        A URL is fetched in an event loop of its own: call this from a thread that runs none.
        """
        match ref:
            case PathRef(path):
                read = self._confine.read(path.parent, path)
                return self._inspected(read.data, str(path), path.suffix, read.mtime_ns)
            case BytesRef(data, name):
                suffix = PurePosixPath(name).suffix if name else None
                return self._inspected(data, name, suffix, None)
            case UrlRef(url):
                data = fetch_sync(url, self._inputs)
                return self._inspected(data, shown_url(url), _suffix_of_url(url), None)

    def _inspected(
        self, data: bytes, name: str | None, suffix: str | None, mtime_ns: int | None
    ) -> LoadedImage:
        try:
            info = inspect_image(data, suffix, self._inputs.max_pixels)
        except RefusedImage as error:
            where = shown(name) if name is not None else "bytes in the input"
            raise RefusedImage(error.reason, f"{where}: {error}") from error
        return LoadedImage(data, name, len(data), mtime_ns, info)


def _suffix_of_url(url: str) -> str | None:
    """The ending of a URL's path where it is an image's: others (.php) say nothing."""
    suffix = PurePosixPath(URL(url).path).suffix
    return suffix if suffix.lower() in _IMAGE_SUFFIXES else None
