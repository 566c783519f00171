"""Content digests: the same content gives the same digest on every machine, in every version."""

from __future__ import annotations

import hashlib
import json
from typing import Any

_CANONICAL = json.JSONEncoder(
    sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
)
DIGEST_LENGTH = 32  # hex characters of SHA-256 kept: 128 bits


def canonical_json(value: Any) -> bytes:
    """UTF-8 JSON with sorted keys and no spaces; NaN and unknown types are refused."""
    return _CANONICAL.encode(value).encode()


def digest(value: Any) -> str:
    """32 hex characters that identify a JSON-like value."""
    return bytes_digest(canonical_json(value))


def text_digest(text: str) -> str:
    """32 hex characters that identify a text."""
    return bytes_digest(text.encode())


def bytes_digest(data: bytes) -> str:
    """32 hex characters that identify bytes."""
    return hashlib.sha256(data).hexdigest()[:DIGEST_LENGTH]


def image_digest(data: bytes) -> str:
    """64 hex characters: the SHA-256 of an image file's bytes, its identity everywhere."""
    return hashlib.sha256(data).hexdigest()


def seed_of(*parts: str | int) -> int:
    """A reproducible 31-bit seed: seed = hash(row, k)."""
    return int(digest(list(parts))[:8], 16) & 0x7FFFFFFF
