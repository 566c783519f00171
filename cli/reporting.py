"""Writes the HTML report of a dataset."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cli.results import built_root, console
from config.errors import StorageError
from report.page import render
from report.reading import read_report

PAIRS = 24


def write_report(
    root_url: str, out: Path, pairs: int = PAIRS, seed: int = 0, notes: Sequence[str] = ()
) -> None:
    """Writes the page and says where. Raises StorageError for a root without a dataset, or a path
    that cannot be written."""
    page = render(read_report(built_root(root_url), pairs, seed, notes))
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(page, encoding="utf-8")
    except OSError as error:
        raise StorageError(f"the report {out} cannot be written: {error}") from error
    console().print(f"Report: {out.absolute()} ({len(page.encode()) / 1e6:.1f} MB, opens offline)")
