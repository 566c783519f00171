"""What an input says: one record for each (image, prompt), usable or not."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from config.errors import REFUSALS


@dataclass(frozen=True, slots=True)
class PathRef:
    """An image file. `path` is absolute but not yet confined; `ImageLoader` does that."""

    path: Path


@dataclass(frozen=True, slots=True)
class BytesRef:
    """An image file's bytes, standing in the input itself. `name` is the name it had, if any."""

    data: bytes
    name: str | None


@dataclass(frozen=True, slots=True)
class UrlRef:
    """An image to fetch. `url` is not yet vetted; `fetch` does that."""

    url: str


ImageRef = PathRef | BytesRef | UrlRef


@dataclass(frozen=True, slots=True)
class Record:
    """One (image, prompt) of an input, or what is wrong with it.

    `position` is the record's number in the source and `item` the prompt's number within the
    record, both from 0. A record that cannot be used has `problem`, (reason, message) with a
    reason from `config.errors.REFUSALS`; one that can has an image and a prompt.
    """

    source: str
    position: int
    item: int
    external_id: str | None
    image: ImageRef | None
    prompt: str | None
    problem: tuple[str, str] | None = None

    def __post_init__(self) -> None:
        if self.problem is None:
            if self.image is None or not self.prompt:
                raise ValueError("a record without a problem needs an image and a prompt")
        elif self.problem[0] not in REFUSALS:
            raise ValueError(f"unknown reason for a refusal: {self.problem[0]!r}")


def shown(value: object, limit: int = 120) -> str:
    """A value for a message: quoted, printable, at most about `limit` characters."""
    if isinstance(value, str | bytes):
        value = value[: limit + 1]
    text = ascii(value)
    return text if len(text) <= limit + 2 else f"{text[:limit]}..."
