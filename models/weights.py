"""Digests of weight files, remembered so that a large file is read once."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

from config.errors import RecipeError

log = logging.getLogger(__name__)

CACHE_FILE = "weights.json"


def weights_digest(files: Sequence[Path], cache_dir: Path) -> str:
    """64 hex characters: SHA-256 over the names and contents of weight files, sorted by name.

    A file's own SHA-256 is remembered in `cache_dir` by path, size and time of modification
    (nanoseconds). Raises RecipeError where a file or the cache cannot be read or written.
    """
    whole = hashlib.sha256()
    for path in sorted(files, key=lambda path: path.name):
        whole.update(f"{path.name}\0{_file_digest(path, cache_dir)}\n".encode())
    return whole.hexdigest()


def _file_digest(path: Path, cache_dir: Path) -> str:
    try:
        # A snapshot's files are links to content-named ones: one entry however often linked.
        real = path.resolve(strict=True)
        facts = real.stat()
    except OSError as error:
        raise RecipeError(f"weight file {path} cannot be read: {error}") from error
    key = f"{real}|{facts.st_size}|{facts.st_mtime_ns}"
    known = _read_cache(cache_dir / CACHE_FILE)
    if key in known:
        return known[key]
    try:
        with real.open("rb") as stream:
            found = hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise RecipeError(f"weight file {path} cannot be read: {error}") from error
    others = {k: v for k, v in known.items() if not k.startswith(f"{real}|")}
    _write_cache(cache_dir / CACHE_FILE, {**others, key: found})
    return found


def _read_cache(path: Path) -> dict[str, str]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError:
        log.warning("%s is damaged; weight files are read again", path)
        return {}
    except OSError as error:
        raise RecipeError(f"cache file {path} cannot be read: {error}; set cache_dir") from error
    if not isinstance(data, dict):
        log.warning("%s is damaged; weight files are read again", path)
        return {}
    return {key: value for key, value in data.items() if isinstance(value, str)}


def _write_cache(path: Path, known: dict[str, str]) -> None:
    """Replaces the file in one step. Of two writers at once one entry is lost: it is read again."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(
            "w", dir=path.parent, prefix=f".{path.name}.", delete=False, encoding="utf-8"
        ) as stream:
            json.dump(known, stream, indent=1, sort_keys=True)
        os.replace(stream.name, path)
    except OSError as error:
        raise RecipeError(f"cache file {path} cannot be written: {error}; set cache_dir") from error
