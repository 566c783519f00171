"""What a run says of itself: trackers through Accelerate, metrics.jsonl, and a line in the terminal."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from train.objectives import Combination, LogProbs, Objective

Metrics = dict[str, float]
CHOSEN = Combination("image", "chosen")


class Sums:
    """Sums over the rows of a step on this process, by metric."""

    def __init__(self, objective: Objective, beta: float) -> None:
        self._objective = objective
        self._beta = beta
        self._sums: dict[str, Tensor] = {}

    @torch.no_grad()
    def add(
        self,
        terms: Mapping[str, Tensor],
        policy: LogProbs,
        reference: LogProbs | None,
        weight: float,
    ) -> None:
        """weight: 1, or 0 for a batch that only keeps processes in step."""
        found = {"loss" if name == "loss" else f"terms/{name}": terms[name] for name in terms}
        found["log_probs/chosen"] = (
            policy[CHOSEN] if CHOSEN in policy else next(iter(policy.values()))
        )
        if reference is not None:
            found |= self._preferences(policy, reference)
        for name, values in found.items():
            value = weight * values.detach().double().sum()
            self._sums[name] = self._sums[name] + value if name in self._sums else value

    def _preferences(self, policy: LogProbs, reference: LogProbs) -> dict[str, Tensor]:
        ratios = {which: policy[which] - reference[which] for which in policy}
        found = {f"rewards/{_name(which)}": self._beta * ratios[which] for which in ratios}
        for better, worse in self._objective.orders:
            margin = self._beta * (ratios[better] - ratios[worse])
            found[f"margins/{_name(better)}_over_{_name(worse)}"] = margin
            found[f"accuracies/{_name(better)}_over_{_name(worse)}"] = (margin > 0).double()
        if CHOSEN in ratios:
            found["log_probs/chosen_drift"] = ratios[CHOSEN]
        return found

    def values(self) -> Metrics:
        names = list(self._sums)
        return dict(zip(names, torch.stack([self._sums[n] for n in names]).tolist(), strict=True))


def _name(which: Combination) -> str:
    return f"{which.image}.{which.response}"


class MetricsFile:
    """metrics.jsonl: one line a step. A resumed run takes back the lines after its checkpoint."""

    def __init__(self, path: Path, step: int) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        kept = [line for line in lines if _step_of(line) <= step]
        path.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")

    def add(self, step: int, metrics: Metrics) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **metrics}) + "\n")


def _step_of(line: str) -> float:
    try:
        return float(json.loads(line)["step"])
    except json.JSONDecodeError:
        return float("inf")  # the line that a kill cut off


def left(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


class Terminal:
    """One line a step on standard error, at most every `every` seconds, with the time left."""

    def __init__(self, start: int, total: int, every: float = 5.0) -> None:
        self._start, self._total, self._every = start, total, every
        self._began = time.monotonic()
        self._last = -every

    def step(self, step: int, metrics: Metrics) -> None:
        now = time.monotonic() - self._began
        if now - self._last < self._every and step < self._total:
            return
        self._last = now
        to_go = now / max(1, step - self._start) * (self._total - step)
        accuracies = [value for name, value in metrics.items() if name.startswith("accuracies/")]
        accuracy = f"  accuracy {sum(accuracies) / len(accuracies):.2f}" if accuracies else ""
        say(
            f"step {step}/{self._total}  loss {metrics['loss']:.4f}{accuracy}  "
            f"{metrics['speed/tokens_per_s']:,.0f} tokens/s  {left(to_go)} left"
        )


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
