"""JSON lines, read by line; and a JSON list (LLaVA, TPO), which is loaded whole."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import orjson

from config.errors import InputError
from sources.records import shown
from sources.rows import BadRow, Row

MAX_LINE_BYTES = 64 * 2**20  # a longer line is a bad row, so that memory stays bounded
_BOM = b"\xef\xbb\xbf"


def jsonl_rows(path: Path, max_line_bytes: int = MAX_LINE_BYTES) -> Iterator[Row]:
    """One row a line; a line that is no JSON object is a bad row. Blank lines do not count."""
    try:
        with path.open("rb") as stream:
            number = 0
            while line := stream.readline(max_line_bytes + 1):
                number += 1
                if len(line) > max_line_bytes:
                    while line and not line.endswith(b"\n"):
                        line = stream.readline(max_line_bytes)
                    yield BadRow(f"line {number} is longer than {max_line_bytes} bytes")
                    continue
                if number == 1:
                    line = line.removeprefix(_BOM)
                if line.strip():
                    yield _line_row(number, line)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error


def json_rows(path: Path) -> Iterator[Row]:
    """One row an entry of the list. The whole file is in memory; use JSON lines for large ones."""
    try:
        value = orjson.loads(path.read_bytes().removeprefix(_BOM))
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
    except orjson.JSONDecodeError as error:
        raise InputError(
            f"{path} is not JSON: {error}; if it has one object a line, call it .jsonl"
        ) from error
    if not isinstance(value, list):
        raise InputError(f"{path} holds {shown(value)}; expected a list of objects")
    for number, entry in enumerate(value):
        if isinstance(entry, dict):
            yield entry
        else:
            yield BadRow(f"entry {number} is {shown(entry)}; expected an object")


def _line_row(number: int, line: bytes) -> Row:
    try:
        value = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        return BadRow(f"line {number} is not JSON: {error}")
    if not isinstance(value, dict):
        return BadRow(f"line {number} is {shown(value)}; expected an object")
    return value
