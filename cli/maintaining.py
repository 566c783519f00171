"""Looks after a root from the command line, without Prefect, and prints what was found."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.table import Table

from cli.results import console
from config.errors import InputError
from config.settings import load_settings
from stages.maintain import check, error_of, tidy
from storage.root import Root


def run_maintain(
    root_url: str, compact: bool, verify: bool, settings_file: Path | None, if_busy: str
) -> None:
    """Raises StorageError where faults were found, RootBusy as a build does."""
    if if_busy not in ("wait", "refuse"):
        raise InputError(f"--if-busy {if_busy!r}: expected wait or refuse")
    root, settings, out = Root(root_url), load_settings(settings_file), console()
    print_tidied(tidy(root, merge=compact, wait=if_busy == "wait", say=out.print))
    if verify:
        report = check(root, settings)
        print_report(report)
        if report["faults"]:
            raise error_of(report)


def print_tidied(receipt: dict[str, Any]) -> None:
    out = console()
    swept = [f"{count:,} {what}" for what, count in receipt["swept"].items() if count]
    out.print(f"Left by killed runs: {', '.join(swept) or 'nothing'}")
    table = Table(box=None, pad_edge=False)
    for name in ("table", "recipe"):
        table.add_column(name)
    for name in ("parts before", "parts after", "unreadable"):
        table.add_column(name, justify="right")
    for line in receipt["tables"]:
        table.add_row(*map(str, line.values()))
    if receipt["tables"]:
        out.print(table)


def print_report(report: dict[str, Any]) -> None:
    out = console()
    checked = [f"{count:,} {what}" for what, count in report["checked"].items()]
    out.print(f"Checked: {', '.join(checked)}")
    for fault in report["listed"]:
        out.print(f"[red]{fault['kind']}[/]  {fault['path']}", markup=True)
        out.print(f"  {fault['found']}\n  to do: {fault['do']}", markup=False)
    if report["faults"] > len(report["listed"]):
        out.print(f"... and {report['faults'] - len(report['listed']):,} more")
    if not report["faults"]:
        out.print("[green]No fault was found.[/]")
