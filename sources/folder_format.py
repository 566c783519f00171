"""Images of a folder or of a glob, each asked every prompt."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator
from pathlib import Path

from config.errors import InputError
from sources.records import shown
from sources.rows import BadRow, Row


def folder_rows(folder: Path, leave_out: Path | None) -> Iterator[Row]:
    """Every file below a folder, in the order of names, folder by folder.

    Files that are no images are not skipped: they are refused by name when they are read. Linked
    folders are not walked into, and those further down may not be readable; each is one bad row.
    `leave_out` is the prompts file. Raises InputError where `folder` itself cannot be read.
    """
    try:
        entries = _entries(folder)
    except OSError as error:
        raise InputError(f"folder {shown(str(folder))} cannot be read: {error.strerror}") from error
    waiting = entries[::-1]
    while waiting:
        entry = waiting.pop()
        try:
            if entry.is_dir(follow_symlinks=False):
                waiting += _entries(Path(entry.path))[::-1]
                continue
            linked = entry.is_dir()
        except OSError as error:  # no right to read it, or a link to itself
            yield BadRow(f"{shown(entry.path)} cannot be read: {error.strerror}")
            continue
        if linked:
            yield BadRow(
                f"{shown(entry.path)} is a link to a folder, which is not followed: "
                "give that folder as an input of its own"
            )
        elif leave_out is None or Path(entry.path) != leave_out:
            yield _row(entry.path)


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    with os.scandir(folder) as found:
        return sorted(found, key=lambda entry: entry.name)


def glob_rows(pattern: str) -> Iterator[Row]:
    """Every file a glob matches (** is any depth), in the order of names, held as one list."""
    for path in sorted(glob.glob(os.path.abspath(pattern), recursive=True)):
        if not os.path.isdir(path):
            yield _row(path)


def _row(path: str) -> Row:
    try:
        path.encode()
    except UnicodeEncodeError:
        return BadRow(f"the file name {shown(path)} is not UTF-8: rename the file")
    # The path is absolute, so that a file with the name of a URL stays a file.
    return {"image": path}
