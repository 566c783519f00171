"""What stops a run before it trains on nonsense, or goes on training into it."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass, field

from config.errors import TrainingError
from train.encode import EncodedRow
from train.objectives import LogProbs
from train.recipe import Recipe

FIRST = 10  # steps whose mean loss a later one is compared with


def check_start(
    rows: list[EncodedRow],
    policy: LogProbs,
    reference: LogProbs,
    tolerance: float,
    source: str,
) -> float:
    """The largest |log pi - log pi_ref| at step 0, in nats: policy and reference are one model then.

    source: where the reference came from, for the message. Raises TrainingError above `tolerance`.
    """
    largest = 0.0
    for which, values in policy.items():
        for row, ours, theirs in zip(rows, values.tolist(), reference[which].tolist(), strict=True):
            difference = abs(ours - theirs)
            largest = max(largest, difference)
            if not difference <= tolerance:
                raise TrainingError(
                    f"at step 0 the policy gives row {row.row_id}, {which.response} given "
                    f"{which.image}, {ours:.4f} nats and the reference ({source}) {theirs:.4f}; "
                    f"they are the same model, so the tolerance is {tolerance}. The reference was "
                    "scored otherwise (layout, dtype, preprocessing) or is another model: delete "
                    "a stale cache, or name that model as reference.path if it is meant."
                )
    return largest


@dataclass
class Watch:
    """Follows the loss. `first` and `high` go into checkpoints, so that a resumed run sees the same."""

    divergence: float
    patience: int
    first: list[float] = field(default_factory=list)
    high: int = 0

    @classmethod
    def of(cls, recipe: Recipe) -> Watch:
        return cls(recipe.guards.divergence, recipe.guards.patience)

    def look(self, step: int, loss: float, grad_norm: float) -> str | None:
        """Why the run must stop after this step's loss, or None."""
        if not math.isfinite(loss):
            return f"the loss is {loss} at step {step}"
        if not math.isfinite(grad_norm):
            return f"the gradient's norm is {grad_norm} at step {step}, the loss {loss:.4f}"
        if len(self.first) < FIRST:
            self.first.append(loss)
            return None
        mean = statistics.fmean(self.first)
        self.high = self.high + 1 if loss > self.divergence * mean else 0
        if self.high < self.patience:
            return None
        return (
            f"the loss is {loss:.4f} at step {step} and has been above {self.divergence:g} times "
            f"the first steps' mean, {mean:.4f}, for {self.high} steps"
        )
