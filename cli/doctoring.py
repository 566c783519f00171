"""Prints what `vispref doctor` found, for a terminal."""

from __future__ import annotations

from collections import Counter

from rich.table import Table
from rich.text import Text

from cli.results import console
from operate.findings import Finding

COLOURS = {"ok": "green", "warn": "yellow", "fail": "red"}


def print_findings(findings: list[Finding]) -> bool:
    """Whether nothing failed."""
    table = Table(box=None, pad_edge=False, show_header=False)
    for _ in range(2):
        table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for finding in findings:
        said = Text(finding.found)
        if finding.remedy:
            said.append(f"\n-> {finding.remedy}", style="bold")
        table.add_row(Text(finding.level, style=COLOURS[finding.level]), finding.what, said)
    out = console()
    out.print(table)
    counts = Counter(finding.level for finding in findings)
    out.print(f"\n{counts['ok']} ok, {counts['warn']} to know of, {counts['fail']} to mend")
    return counts["fail"] == 0
