"""The live table of a run in a terminal; plain lines where there is no terminal."""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Iterator

from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from stages.base import Progress, StageProgress
from stages.chain import STAGES

EVERY_S = 0.5
PLAIN_EVERY_S = 10.0


def human_time(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def human_count(count: float) -> str:
    """At most six characters: 98,765 or 12.3M."""
    for size, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e5, "k")):
        if count >= size:
            return (
                f"{count / (1e3 if letter == 'k' else size):.{0 if letter == 'k' else 1}f}{letter}"
            )
    return f"{count:,.0f}"


def human_dollars(dollars: float) -> str:
    """Cents and less where they are all there is: $0.0012, $12.34, $12,345."""
    digits = 4 if dollars < 1 else 2 if dollars < 1000 else 0
    return f"${dollars:,.{digits}f}"


COLUMNS = ("done", "of", "failed", "rows/s", "calls", "cached", "tokens", "cost", "took", "left")
# What a narrow terminal goes without, first the first.
DISPENSABLE = ("cached", "calls", "took", "rows/s", "of")
NOTE_AT_LEAST = 20


def progress_table(progress: Progress, width: int) -> Table:
    """One line a stage and never more: columns are left out until the rest fits `width`."""
    stages = [progress.stages.get(name) or StageProgress(name) for name in STAGES]
    lines = [_cells(stage) for stage in stages]
    shown = list(COLUMNS)
    sizes = {
        n: max(len(n), *(Text.from_markup(line[n]).cell_len for line in lines)) for n in COLUMNS
    }
    first = max(len(name) for name in STAGES)

    def left() -> int:
        return width - first - sum(2 + sizes[name] for name in shown)

    for name in DISPENSABLE:
        if left() < 0:
            shown.remove(name)
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("stage", no_wrap=True)
    for name in shown:
        table.add_column(name, justify="right", no_wrap=True)
    notes = left() - 2 >= NOTE_AT_LEAST
    if notes:
        table.add_column("", no_wrap=True, overflow="ellipsis", max_width=left() - 2)
    for stage, line in zip(stages, lines, strict=True):
        note = [escape(" ".join(stage.note.split()))] if notes else []
        table.add_row(line["stage"], *(line[name] for name in shown), *note)
    return table


def _cells(stage: StageProgress) -> dict[str, str]:
    if stage.state == "waiting":
        return {"stage": f"[dim]{stage.stage}[/]", **dict.fromkeys(COLUMNS, "")}
    colour = {"running": "yellow", "done": "green", "stopped": "red"}.get(stage.state, "white")
    left = stage.seconds_left if stage.state == "running" else None
    return {
        "stage": f"[{colour}]{stage.stage}[/]",
        "done": human_count(stage.done),
        "of": human_count(stage.total),
        "failed": f"[red]{human_count(stage.failed)}[/]" if stage.failed else "0",
        "rows/s": human_count(stage.rate) if stage.rate >= 10 else f"{stage.rate:.1f}",
        "calls": human_count(stage.calls),
        "cached": human_count(stage.cached),
        "tokens": human_count(stage.prompt_tokens + stage.completion_tokens),
        "cost": human_dollars(stage.cost_usd),
        "took": human_time(stage.seconds),
        "left": human_time(left),
    }


def _shown(progress: Progress, console: Console) -> Table | Text:
    if not progress.stages:
        return Text("Starting ...", style="dim")
    return progress_table(progress, console.width)


@contextlib.contextmanager
def live(progress: Progress) -> Iterator[None]:
    """Shows the table until the block ends. Written to standard error."""
    console = Console(stderr=True)
    if console.is_terminal:
        shown = Live(
            get_renderable=lambda: _shown(progress, console),
            console=console,
            refresh_per_second=1 / EVERY_S,
        )
        with shown:
            yield
        return
    stop = threading.Event()
    printer = threading.Thread(target=_print_lines, args=(progress, stop), daemon=True)
    printer.start()
    try:
        yield
    finally:
        stop.set()
        printer.join()


def _print_lines(progress: Progress, stop: threading.Event) -> None:
    said: set[str] = set()
    last = False
    while not last:
        last = stop.wait(PLAIN_EVERY_S)
        for stage in list(progress.stages.values()):
            if stage.state == "running" or stage.stage not in said:
                print(plain_line(stage), file=sys.stderr, flush=True)
            if stage.state != "running":
                said.add(stage.stage)


def plain_line(stage: StageProgress) -> str:
    tokens = stage.prompt_tokens + stage.completion_tokens
    line = (
        f"{stage.stage:<10} {stage.state:<8} {stage.done}/{stage.total} rows, {stage.failed} failed, "
        f"{stage.calls} calls, {stage.cached} cached, {tokens:,} tokens, ${stage.cost_usd:.4f}, "
        f"{human_time(stage.seconds)}"
    )
    if stage.state == "running":
        line += f", {stage.rate:.1f} rows/s, {human_time(stage.seconds_left)} left"
    return f"{line}  {' '.join(stage.note.split())}".rstrip()
