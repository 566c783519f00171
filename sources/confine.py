"""Files are read only below the folders that the user allowed, whatever an input names."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from config.errors import RefusedImage
from sources.records import shown

MAX_FILE_BYTES = 2**30  # more than an uncompressed image of the most pixels that are read


@dataclass(frozen=True, slots=True)
class ReadFile:
    """A file's bytes and when it last changed (nanoseconds since 1970)."""

    data: bytes
    mtime_ns: int


class Confine:
    """Resolves and reads paths, all links followed, below the `allowed` folders only."""

    def __init__(self, allowed: Sequence[Path]) -> None:
        self._allowed = tuple(Path(os.path.realpath(folder)) for folder in allowed)

    def resolve(self, base: Path, given: str | Path) -> Path:
        """The real path of `given` (relative to `base`, or absolute).

        `..`, absolute paths and links are fine as long as the file itself lies below an allowed
        folder. Raises RefusedImage: outside_allowed_folders (whether or not such a file exists),
        missing, unreadable_file.
        """
        try:
            real = Path(os.path.realpath(os.path.join(base, given)))
            self._check_inside(real, given)
            real.stat()
        except (FileNotFoundError, NotADirectoryError) as error:
            raise RefusedImage("missing", f"{shown(str(given))} does not exist") from error
        except ValueError as error:  # a NUL byte, or text that is no file name
            raise RefusedImage("missing", f"{shown(str(given))} is no file name") from error
        except OSError as error:
            raise RefusedImage(
                "unreadable_file", f"{shown(str(given))} cannot be read: {error.strerror}"
            ) from error
        return real

    def read(self, base: Path, given: str | Path) -> ReadFile:
        """The bytes of a regular file below an allowed folder.

        Raises RefusedImage as `resolve` does, and unreadable_file for anything that is no regular
        file (folders, pipes, devices) or larger than MAX_FILE_BYTES. What was opened is checked
        again, so that a link exchanged in between does not help.
        """
        real = self.resolve(base, given)
        try:
            self._check_regular(os.stat(real), given)  # opening a device may already do something
            descriptor = os.open(real, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
            with os.fdopen(descriptor, "rb") as stream:
                found = os.fstat(descriptor)
                self._check_regular(found, given)
                self._check_inside(_opened_path(descriptor, real, found), given)
                data = stream.read(MAX_FILE_BYTES + 1)
        except FileNotFoundError as error:
            raise RefusedImage("missing", f"{shown(str(given))} went away") from error
        except OSError as error:
            raise RefusedImage(
                "unreadable_file", f"{shown(str(given))} cannot be read: {error.strerror}"
            ) from error
        if len(data) > MAX_FILE_BYTES:
            raise RefusedImage(
                "unreadable_file",
                f"{shown(str(given))} has more than {MAX_FILE_BYTES} bytes; expected an image",
            )
        return ReadFile(data, found.st_mtime_ns)

    def _check_inside(self, real: Path, given: str | Path) -> None:
        if not any(real.is_relative_to(folder) for folder in self._allowed):
            raise RefusedImage(
                "outside_allowed_folders",
                f"{shown(str(given))} leads outside the allowed folders: move the file into one, "
                "or add its folder to allowed_folders",
            )

    @staticmethod
    def _check_regular(found: os.stat_result, given: str | Path) -> None:
        if not stat.S_ISREG(found.st_mode):
            raise RefusedImage(
                "unreadable_file",
                f"{shown(str(given))} is a {stat.filemode(found.st_mode)[0]!r} entry (d folder, "
                "p pipe, c or b device, s socket); expected a regular file",
            )


def _opened_path(descriptor: int, asked: Path, found: os.stat_result) -> Path:
    """The real path of what was opened; where the system does not tell it, by identity."""
    link = Path(f"/proc/self/fd/{descriptor}")
    if link.is_symlink():
        return Path(os.readlink(link))
    again = Path(os.path.realpath(asked))
    if not os.path.samestat(os.stat(again), found):
        raise FileNotFoundError(f"{asked} was exchanged while it was opened")
    return again
