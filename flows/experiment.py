"""The cure experiment on the miniature world as a flow: its own process, its table an artifact."""

from __future__ import annotations

import base64
import sys
from pathlib import Path
from typing import Annotated

from prefect import flow, get_run_logger
from prefect.artifacts import create_markdown_artifact
from pydantic import Field

from tasks.patience import shown_here
from tasks.processes import run_program


@flow(name="experiment", flow_run_name="experiment in {out}", persist_result=False)
def experiment(
    out: str,
    jobs: Annotated[int, Field(ge=1, le=64)] = 2,
    seeds: Annotated[int, Field(ge=1, le=20)] = 3,
    scenes: Annotated[int, Field(ge=20)] = 360,
) -> str:
    """Trains the miniature world's model by every method and measures the cure.

    Runs that are finished are kept: the same values go on. It takes half an hour on two cores and
    needs the extras `train` and `plots`.

    Args:
        out: The folder of dataset, runs and report.
        jobs: Runs at a time, one core each.
        seeds: Of all methods at their learning rates.
        scenes: Of the dataset.

    Gives the report's path. Raises StageStopped after a signal, TrainingError otherwise.
    """
    folder = Path(out).absolute()
    options = {"--out": str(folder), "--jobs": jobs, "--seeds": seeds, "--scenes": scenes}
    command = [sys.executable, "-m", "experiments"]
    for name, value in options.items():
        command += [name, str(value)]
    run_program(command, get_run_logger().info, what="the experiment")
    report = folder / "report.md"
    page = report.read_text(encoding="utf-8") + picture(folder / "chairs-coverage.png")
    told = "Every method on the miniature world"
    shown_here(lambda: create_markdown_artifact(markdown=page, key="experiment", description=told))
    return str(report)


def picture(path: Path) -> str:
    """The plot as Markdown; an artifact's picture has no other place that a browser reaches."""
    data = base64.b64encode(path.read_bytes()).decode()
    return f"\n![CHAIRs against coverage](data:image/png;base64,{data})\n"
