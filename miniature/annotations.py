"""What is known of each image: the truth from which the stand-in models answer.

An annotations file is JSON lines:

    {"sha256": "64 hex", "captions": ["..."], "objects": ["..."], "aliases": ["64 hex"]}

`aliases` (optional) are other files of the same picture, such as a view turned upright.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from config.digest import image_digest
from config.errors import InputError

_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Annotation:
    """The truth about one image. `sha256` is the digest of its file's bytes (64 hex).

    `captions` are true sentences, `objects` the names of what is in the picture; it may be empty
    where nobody listed them.
    """

    sha256: str
    captions: tuple[str, ...]
    objects: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()


def load_annotations(path: Path) -> list[Annotation]:
    """Reads an annotations file, or a photo folder's `photos.jsonl` (same keys). Raises InputError.

    A photo folder's "objects" may be null: then its captions are all that is known.
    """
    return [_annotation(record, f"{path}, line {number}") for number, record in _lines(path)]


def photo_annotations(folder: Path) -> list[Annotation]:
    """The annotations of a photo folder (`photos.jsonl` beside the files it names).

    The photographs stay where they are; each is read once and must have the digest its record
    states. Raises InputError.
    """
    listing = folder / "photos.jsonl"
    annotations = []
    for number, record in _lines(listing):
        annotation = _annotation(record, f"{listing}, line {number}")
        photo = folder / str(record.get("file"))
        try:
            found = image_digest(photo.read_bytes())
        except OSError as error:
            raise InputError(
                f"{listing}, line {number}: photo {photo} cannot be read: {error}"
            ) from error
        if found != annotation.sha256:
            raise InputError(
                f"{photo} has the digest {found}, its record says {annotation.sha256}; "
                "restore the file or correct the record"
            )
        annotations.append(annotation)
    return annotations


def write_annotations(path: Path, annotations: Iterable[Annotation]) -> None:
    """Writes an annotations file whole, replacing what stood there."""
    lines = [
        orjson.dumps(
            {
                "sha256": annotation.sha256,
                "captions": list(annotation.captions),
                "objects": list(annotation.objects),
                "aliases": list(annotation.aliases),
            }
        )
        for annotation in annotations
    ]
    write_if_changed(path, b"".join(line + b"\n" for line in lines))


def write_if_changed(path: Path, data: bytes) -> None:
    """Writes a file atomically, and leaves one that already holds these bytes untouched."""
    if path.exists() and path.read_bytes() == data:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(path.name + ".part")
    scratch.write_bytes(data)
    scratch.replace(path)


def _lines(path: Path) -> Iterable[tuple[int, dict[str, Any]]]:
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise InputError(f"annotations {path} cannot be read: {error}") from error
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            record = orjson.loads(line)
        except orjson.JSONDecodeError as error:
            raise InputError(f"{path}, line {number} is not JSON: {error}") from error
        if not isinstance(record, dict):
            raise InputError(
                f"{path}, line {number} holds a {type(record).__name__}, expected an object"
            )
        yield number, record


def _annotation(record: dict[str, Any], where: str) -> Annotation:
    sha256 = record.get("sha256")
    if not isinstance(sha256, str) or not _DIGEST.fullmatch(sha256):
        raise InputError(f'{where}: "sha256" is {sha256!r}, expected 64 hex characters')
    return Annotation(
        sha256=sha256,
        captions=_texts(record, "captions", where),
        objects=_texts(record, "objects", where),
        aliases=_texts(record, "aliases", where),
    )


def _texts(record: dict[str, Any], key: str, where: str) -> tuple[str, ...]:
    value = record.get(key)
    if value is None:
        value = []
    if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
        raise InputError(f'{where}: "{key}" is {value!r}, expected a list of texts or null')
    return tuple(value)
