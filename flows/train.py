"""Training as a flow: the same process as by hand, its lines in the log, its checkpoint an artifact."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from prefect import flow, get_run_logger

from config.errors import StageStopped, TrainingError
from tasks.training import TrainingProgress, publish_checkpoint

STOPPED = 130
KEPT_LINES = 5  # of the process's last words, for the error
# How a terminal is shown the process's lines; a deployment's log is told instead.
TELL: ContextVar[Callable[[str], None] | None] = ContextVar("tell", default=None)


def training_command(recipe: str, data: str, out: str | None, overrides: list[str]) -> list[str]:
    """The process. It is started as a program of its own: nothing of the pipeline imports `train`."""
    command = [sys.executable, "-m", "train.launch", recipe, "--data", data]
    command += [] if out is None else ["--out", out]
    return command + [part for pair in overrides for part in ("--set", pair)]


@flow(name="train", flow_run_name="train {recipe} on {data}", persist_result=False)
def train(recipe: str, data: str, out: str, overrides: list[str] | None = None) -> dict[str, Any]:
    """Trains `recipe` (a name or a YAML file's path) on the dataset under `data`, or goes on with it.

    out: the folder of checkpoints, logs and the trained model. Gives result.json's content. Raises
    StageStopped after a signal, TrainingError with the process's last words otherwise.
    """
    say = TELL.get() or get_run_logger().info
    progress = TrainingProgress()
    last: list[str] = []
    with subprocess.Popen(  # noqa: S603 - this project's own module, no shell
        training_command(recipe, data, out, overrides or []),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    ) as process:
        for line in _lines(process):
            say(line)
            last = [*last, line][-KEPT_LINES:]
            found = re.match(r"step (\d+)/(\d+) ", line)
            if found:
                progress.show(100.0 * int(found[1]) / int(found[2]))
    if process.returncode == STOPPED:
        raise StageStopped(last[-1] if last else "training was stopped")
    if process.returncode != 0:
        raise TrainingError(
            f"training ended with code {process.returncode}: {' | '.join(last) or 'no word'}"
        )
    result: dict[str, Any] = json.loads((Path(out) / "result.json").read_text(encoding="utf-8"))
    publish_checkpoint(result)
    return result


def _lines(process: subprocess.Popen[str]) -> Iterator[str]:
    """The process's lines until it ends; Ctrl-C reaches it too, and it writes a checkpoint first."""
    if process.stdout is None:
        raise ValueError("the process was started without a pipe")
    try:
        for line in process.stdout:
            if line.strip():
                yield line.rstrip()
    except KeyboardInterrupt:
        for line in process.stdout:
            if line.strip():
                yield line.rstrip()
        process.wait()
        raise
