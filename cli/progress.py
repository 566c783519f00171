"""The live table of a run in a terminal; plain lines where there is no terminal."""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Iterator

from rich.console import Console
from rich.live import Live
from rich.table import Table

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


def progress_table(progress: Progress) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("stage")
    for name in (
        "done",
        "of",
        "failed",
        "rows/s",
        "calls",
        "cached",
        "tokens",
        "cost",
        "took",
        "left",
    ):
        table.add_column(name, justify="right")
    table.add_column("")
    for name in STAGES:
        stage = progress.stages.get(name)
        if stage is None:
            table.add_row(f"[dim]{name}", *[""] * 10, "")
        else:
            table.add_row(*_cells(stage))
    return table


def _cells(stage: StageProgress) -> list[str]:
    colour = {"running": "yellow", "done": "green", "stopped": "red"}.get(stage.state, "white")
    left = stage.seconds_left if stage.state == "running" else None
    failed = f"[red]{stage.failed}[/]" if stage.failed else "0"
    return [
        f"[{colour}]{stage.stage}[/]",
        str(stage.done),
        str(stage.total),
        failed,
        f"{stage.rate:.1f}" if stage.done else "",
        str(stage.calls),
        str(stage.cached),
        f"{stage.prompt_tokens + stage.completion_tokens:,}",
        f"${stage.cost_usd:.4f}",
        human_time(stage.seconds),
        human_time(left),
        stage.note[:60],
    ]


@contextlib.contextmanager
def live(progress: Progress) -> Iterator[None]:
    """Shows the table until the block ends. Written to standard error."""
    console = Console(stderr=True)
    if console.is_terminal:
        shown = Live(
            get_renderable=lambda: progress_table(progress),
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
        line += f", {human_time(stage.seconds_left)} left"
    return f"{line}  {stage.note}".rstrip()
