"""What a training run shows in Prefect: how far it is, and where its checkpoint lies."""

from __future__ import annotations

import time
from typing import Any
from uuid import UUID

from prefect.artifacts import (
    create_markdown_artifact,
    create_progress_artifact,
    update_progress_artifact,
)

EVERY_S = 5.0


class TrainingProgress:
    """A progress artifact in percent of the steps, updated at most every few seconds."""

    def __init__(self, every_s: float = EVERY_S) -> None:
        made = create_progress_artifact(progress=0.0, description="Share of the steps done")
        self._artifact = made if isinstance(made, UUID) else made.id  # type: ignore[union-attr]
        self._every_s = every_s
        self._next = 0.0

    def show(self, percent: float) -> None:
        if time.monotonic() < self._next and percent < 100.0:
            return
        self._next = time.monotonic() + self._every_s
        update_progress_artifact(self._artifact, progress=percent)


def publish_checkpoint(result: dict[str, Any]) -> None:
    create_markdown_artifact(
        markdown=checkpoint_page(result), key="checkpoint", description="Trained checkpoint"
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
