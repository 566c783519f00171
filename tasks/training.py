"""What a training run shows in Prefect: how far it is, its losses, its checkpoint, what it changed."""

from __future__ import annotations

import base64
import json
import time
from pathlib import Path
from typing import Any
from uuid import UUID

from prefect.artifacts import (
    create_markdown_artifact,
    create_progress_artifact,
    update_progress_artifact,
)
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import ArtifactUpdate

from report.curves import draw, thin
from tasks.patience import shown_here

EVERY_S = 5.0
# The measures of the miniature world (miniature.scoring.Scores), in a reader's words.
SCORES = {
    "chair_s": "descriptions with an object that is not there (CHAIRs)",
    "chair_i": "named objects that are not there (CHAIRi)",
    "coverage": "objects of the scenes that are named",
    "exact": "descriptions that are exact",
    "yes_no": "yes/no questions answered rightly",
    "others": "other questions answered rightly",
}


class TrainingProgress:
    """A progress bar in percent of the steps and a page of losses, updated every few seconds.

    metrics: the training process's metrics.jsonl, which may not be there yet.
    """

    def __init__(self, metrics: Path, every_s: float = EVERY_S) -> None:
        self._metrics = metrics
        told = "Share of the steps done"
        self._bar = _id(
            shown_here(lambda: create_progress_artifact(progress=0.0, description=told), 0)
        )
        self._page: UUID | None = None
        self._every_s = every_s
        self._next = 0.0

    def show(self, percent: float) -> None:
        if time.monotonic() < self._next and percent < 100.0:
            return
        self._next = time.monotonic() + self._every_s
        bar = self._bar
        if bar is not None:
            shown_here(lambda: update_progress_artifact(bar, progress=percent), 0)
        self._show_losses()

    def _show_losses(self) -> None:
        page = losses_page(read_metrics(self._metrics))
        if page is None:
            return
        if self._page is None:
            told = "Losses and accuracies by step"
            self._page = _id(
                shown_here(
                    lambda: create_markdown_artifact(markdown=page, key="losses", description=told),
                    0,
                )
            )
            return
        shown_here(lambda: _turn(self._page, page), 0)


def _turn(artifact: UUID | None, page: str) -> None:
    with get_client(sync_client=True) as client:
        client.update_artifact(artifact, ArtifactUpdate(data=page))  # type: ignore[arg-type]


def _id(made: Any) -> UUID | None:
    return getattr(made, "id", made)


def read_metrics(path: Path) -> list[dict[str, float]]:
    """The lines of metrics.jsonl; the last may be half written, and is left for the next look."""
    if not path.exists():
        return []
    found = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            found.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return found


def losses_page(metrics: list[dict[str, float]]) -> str | None:
    """Markdown with the curves as a picture and the newest values; None before the first step."""
    if not metrics:
        return None
    last = metrics[-1]
    shown = [
        name
        for name in last
        if name == "loss" or name.startswith(("terms/", "accuracies/", "margins/"))
    ]
    accuracies = [name for name in shown if name.startswith("accuracies/")]
    curves = [("loss", ["loss"])] + ([("accuracy", accuracies)] if accuracies else [])
    steps = [line["step"] for line in metrics]
    lines = [f"# Step {last['step']:g}", ""]
    for title, names in curves:
        series = {_told(name): _values(metrics, name) for name in names}
        picture = draw(title, *thin(steps, series))
        data = base64.b64encode(picture.encode()).decode()
        lines += [f"![{title} by step](data:image/svg+xml;base64,{data})", ""]
    lines += ["| | first | newest |", "|---|---|---|"]
    lines += [f"| {n} | {_number(metrics[0].get(n))} | {_number(last[n])} |" for n in shown]
    return "\n".join(lines) + "\n"


def _values(metrics: list[dict[str, float]], name: str) -> list[float | None]:
    return [line.get(name) for line in metrics]


def _told(name: str) -> str:
    return name.removeprefix("accuracies/").replace("_over_", " over ")


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def publish_checkpoint(result: dict[str, Any]) -> None:
    page = checkpoint_page(result)
    shown_here(
        lambda: create_markdown_artifact(
            markdown=page, key="checkpoint", description="Trained checkpoint"
        )
    )


def checkpoint_page(result: dict[str, Any]) -> str:
    """result: what result.json says of a finished run."""
    lines = [
        f"# {result['recipe']['name']}",
        "",
        f"- checkpoint: `{result['checkpoint']}`",
        f"- model: `{result.get('model', 'not exported')}`",
        f"- steps: {result['steps']}, rows: {result['rows']}, seed: {result['seed']}",
        f"- recipe digest: `{result['recipe_digest']}`, dataset: `{result['dataset']}`",
        f"- trained parameters: {result['trains']}",
        f"- refused rows: {result['refused'] or 'none'}",
    ]
    return "\n".join(lines) + "\n"


def publish_comparison(found: dict[str, Any]) -> None:
    page = comparison_page(found)
    shown_here(
        lambda: create_markdown_artifact(
            markdown=page, key="before-after", description="Before and after training"
        )
    )


def comparison_page(found: dict[str, Any]) -> str:
    """found: what miniature.making.compare wrote."""
    lines = [
        "# Before and after training",
        "",
        f"{found['scenes']} scenes that nothing before has seen, in percent. A fault that was "
        "planted in a small world: this shows that the machinery works and replicates no paper's "
        "figures.",
        "",
        "| | before | after |",
        "|---|---|---|",
    ]
    for name, told in SCORES.items():
        values = [found[side][name] for side in ("before", "after")]
        shown = ["-" if value is None else f"{value:.1f}" for value in values]
        lines.append(f"| {told} | {shown[0]} | {shown[1]} |")
    for example in found["examples"]:
        lines += ["", f"In the picture: {'; '.join(example['objects'])}", ""]
        lines += [f"- before: {example['before']}", f"- after: {example['after']}"]
    return "\n".join(lines) + "\n"
