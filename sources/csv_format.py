"""CSV with a header, UTF-8, read by row."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from config.errors import InputError
from sources.rows import BadRow, Row


def csv_columns(path: Path) -> list[str]:
    """The header's names. Raises InputError where there is none it can use."""
    try:
        with _open(path) as stream:
            header = next(csv.reader(stream), [])
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
    except csv.Error as error:
        raise InputError(f"{path} has no readable header: {error}") from error
    if not header:
        raise InputError(f"{path} is empty: expected a line of column names")
    try:
        "".join(header).encode()
    except UnicodeEncodeError:
        raise InputError(f"{path}: the header is not UTF-8: save the file as UTF-8") from None
    twice = sorted({name for name in header if header.count(name) > 1})
    if twice:
        raise InputError(f"{path}: columns stand twice in the header: {', '.join(twice)}")
    return header


def csv_rows(path: Path) -> Iterator[Row]:
    """One row a record; a wrong number of fields or bytes that are not UTF-8 make a bad row."""
    header = csv_columns(path)
    try:
        with _open(path) as stream:
            reader = csv.reader(stream)
            next(reader)
            while True:
                try:
                    fields = next(reader)
                except StopIteration:
                    return
                except csv.Error as error:  # the reader starts afresh at the next line
                    yield BadRow(f"line {reader.line_num}: {error}")
                    continue
                if fields:
                    yield _row(header, fields, reader.line_num)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error


def _open(path: Path) -> TextIO:
    # Bytes that are not UTF-8 come through as lone surrogates, and spoil their own row only.
    return path.open(encoding="utf-8-sig", errors="surrogateescape", newline="")


def _row(header: list[str], fields: list[str], line: int) -> Row:
    if len(fields) != len(header):
        return BadRow(f"line {line} has {len(fields)} fields; expected {len(header)}")
    try:
        "".join(fields).encode()
    except UnicodeEncodeError:
        return BadRow(f"line {line} is not UTF-8")
    return dict(zip(header, fields, strict=True))
