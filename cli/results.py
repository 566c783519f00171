"""Rows of a query on the terminal: as a table, one value a line, CSV or JSON."""

from __future__ import annotations

import csv
import json
import sys
from typing import Any

import pyarrow as pa
from rich.console import Console
from rich.table import Table
from rich.text import Text

from config.errors import InputError, StorageError
from storage.catalog import CURRENT, query
from storage.root import Root

FORMATS = ("auto", "table", "vertical", "csv", "json")
SHOWN_ROWS = 50
# A table's cell is cut here; the other formats cut nothing.
CELL = 60


def console() -> Console:
    return Console(highlight=False, soft_wrap=True)


def built_root(root_url: str) -> Root:
    """A root that holds a run. Raises StorageError for one that does not: a typing slip in a path
    must not look like an empty dataset."""
    root = Root(root_url)
    if not root.exists(CURRENT):
        raise StorageError(
            f"{root.url} holds no run yet; check --root, or start one with vispref build"
        )
    return root


def print_query(root_url: str, sql: str, limit: int | None, format: str = "auto") -> None:
    """Raises InputError for an unknown format, StorageError for a missing root or a bad query."""
    if format not in FORMATS:
        raise InputError(f"--format {format!r}: expected one of {', '.join(FORMATS)}")
    root = built_root(root_url)
    if format in ("csv", "json"):
        _write(query(root, sql, limit), format)
        return
    limit = limit or SHOWN_ROWS
    found = query(root, sql, limit + 1)
    out, shown = console(), found.slice(0, limit)
    table = arrow_table(shown, CELL)
    width = natural_width(table)
    if format == "table" or (format == "auto" and width <= out.width):
        Console(highlight=False, width=width).print(table)
    else:
        _print_vertical(out, shown)
    if found.num_rows == 0:
        out.print("[dim]no rows")
    if found.num_rows > limit:
        out.print(f"[dim]the first {limit} rows; --limit shows more, --format json or csv all")


def natural_width(table: Table) -> int:
    """The cells a table takes when nothing is cut or wrapped."""
    return max(1, Console(width=1_000_000).measure(table).maximum)


def _write(found: pa.Table, format: str) -> None:
    rows = found.to_pylist()
    if format == "json":
        for row in rows:
            print(json.dumps(row, default=str, ensure_ascii=False))
        return
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(found.column_names)
    for row in rows:
        writer.writerow(_flat(value) for value in row.values())


def _flat(value: Any) -> Any:
    if isinstance(value, list | dict):
        return json.dumps(value, default=str, ensure_ascii=False)
    return value


def _told(value: Any) -> str:
    """A value on one line."""
    if value is None:
        return ""
    return " ".join(str(value).split())


def _rounded(value: Any) -> Any:
    return f"{value:.6g}" if isinstance(value, float) else value


def arrow_table(found: pa.Table, cell: int | None = None) -> Table:
    """Numbers stand on the right; a cell longer than `cell` characters ends in an ellipsis."""
    table = Table(box=None, pad_edge=False)
    for field in found.schema:
        number = pa.types.is_integer(field.type) or pa.types.is_floating(field.type)
        table.add_column(Text(field.name), justify="right" if number else "left")
    for row in found.to_pylist():
        texts = [_told(_rounded(value)) for value in row.values()]
        cut = [t if cell is None or len(t) <= cell else t[: cell - 1] + "…" for t in texts]
        table.add_row(*map(Text, cut))
    return table


def _print_vertical(out: Console, found: pa.Table) -> None:
    """psql's expanded display: a heading a row, then `column  value`, wrapped under the value."""
    for number, row in enumerate(found.to_pylist(), start=1):
        out.print(f"[dim]-- row {number} --")
        grid = Table.grid(padding=(0, 2, 0, 0))
        grid.add_column(style="bold", no_wrap=True)
        grid.add_column(overflow="fold")
        for name, value in row.items():
            grid.add_row(Text(name), Text(_told(value)))
        out.print(grid)
