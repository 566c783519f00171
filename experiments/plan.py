"""What is trained: the arms, the learning rates, and how one rate is chosen. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

NEAREST, RANDOM = "nearest", "random"
RATES = (3e-5, 1e-4, 3e-4, 1e-3)
# Exact descriptions fall with every invented and every forgotten object; but a rate that describes
# well may answer every question with yes, so the questions count as much.
CHOSEN_BY = ("exact", "yes_no")


@dataclass(frozen=True)
class Arm:
    """One way of training. neighbours: which variant of the dataset's rows.

    ablates: SymMPO's term (or its neighbour's quality) that the arm differs in, None for the others.
    """

    name: str
    objective: str
    parameters: Mapping[str, float] = field(default_factory=dict)
    neighbours: str = NEAREST
    ablates: str | None = None


SYMMPO = Arm("SymMPO", "symmpo")
METHODS = (
    Arm("SFT on y_w", "sft"),
    Arm("DPO", "dpo"),
    Arm("mDPO", "mdpo"),
    SYMMPO,
    Arm("JoMPO", "jompo"),
)
STRONG_GAMMA = 1e-2
ABLATIONS = (
    Arm("SymMPO without Pair", "symmpo-no-pair", ablates="Pair"),
    Arm("SymMPO without Margin", "symmpo-no-margin", ablates="Margin"),
    Arm("SymMPO without AncPO", "symmpo-no-ancpo", ablates="AncPO"),
    Arm("SymMPO, random neighbours", "symmpo", neighbours=RANDOM, ablates="near neighbours"),
    Arm(
        "SymMPO, 100 x gamma", "symmpo", {"gamma": STRONG_GAMMA}, ablates="Margin at 1 x, not 100 x"
    ),
)
ARMS = {arm.name: arm for arm in (*METHODS, *ABLATIONS)}


@dataclass(frozen=True, order=True)
class Job:
    """One training run. seed: of the order of the rows; all else is equal between seeds."""

    arm: str
    rate: float
    seed: int

    @property
    def name(self) -> str:
        words = "".join(c if c.isalnum() else " " for c in self.arm.lower()).split()
        return f"{'-'.join(words)}-{self.rate:.0e}-seed{self.seed}"


def grid(arms: Iterable[Arm], rates: Sequence[float], seeds: Iterable[int]) -> list[Job]:
    """Every arm at every rate, one seed after another: what is cut short has whole seeds."""
    arms = list(arms)
    return [Job(arm.name, rate, seed) for seed in seeds for rate in rates for arm in arms]


def chosen_rate(validation: Mapping[Job, Mapping[str, Any]], arm: str) -> float:
    """The rate with the arm's best mean of CHOSEN_BY on validation scenes, the lower one of equals.

    Raises ValueError where the arm has no run.
    """
    by_rate: dict[float, list[float]] = {}
    for job, scores in validation.items():
        if job.arm == arm:
            by_rate.setdefault(job.rate, []).append(fmean(scores[key] for key in CHOSEN_BY))
    if not by_rate:
        raise ValueError(f"no run of arm {arm!r}; there are {sorted({j.arm for j in validation})}")
    return min(by_rate, key=lambda rate: (-fmean(by_rate[rate]), rate))
