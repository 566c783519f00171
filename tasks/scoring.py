"""The reference is scored on the runner before training: shards of its cache, a process each."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from config.settings import Settings
from tasks.processes import run_program
from tasks.runners import as_tasks, cluster_of


def score_reference(
    settings: Settings,
    recipe: str,
    data: str,
    overrides: list[str],
    say: Callable[[str], None],
) -> None:
    """Fills the reference's cache under the dataset's root, as many shards as the cluster has slots.

    With the local runner nothing is done: training scores for itself. recipe: a name, or a path
    that is the same on every worker. Raises what training would.
    """
    if settings.runner.kind == "local":
        return
    with cluster_of(settings) as cluster:
        count = cluster.slots()
        say(f"scoring the reference on {settings.runner.kind}, in {count} shards")
        jobs = (
            {"recipe": recipe, "data": data, "overrides": overrides, "shard": f"{number}/{count}"}
            for number in range(1, count + 1)
        )
        for receipt in as_tasks("score reference", cluster, jobs, score_shard):
            for line in receipt["lines"]:
                say(line)


def score_shard(job: dict[str, Any]) -> dict[str, Any]:
    """On a worker: the process that scores one shard, with its lines."""
    lines: list[str] = []
    what = f"scoring shard {job['shard']} of the reference"
    run_program(scoring_command(job), lines.append, what=what)
    return {"lines": lines}


def scoring_command(job: dict[str, Any]) -> list[str]:
    """A program of its own: nothing of the pipeline imports `train`."""
    command = [sys.executable, "-m", "train.launch", job["recipe"], "--data", job["data"]]
    command += ["--score-reference", "--shard", job["shard"]]
    # However many processes train: a shard takes one.
    overrides = [*job["overrides"], "processes=1", "launch=ddp"]
    return command + [part for pair in overrides for part in ("--set", pair)]
