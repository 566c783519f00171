"""Means, their 95 % intervals, and differences paired by seed. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

# Student's t, 97.5 % quantile, for 1, 2, 3 ... degrees of freedom.
T_975 = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228,
    2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean over `n` runs. half: of its 95 % interval; None where one run says nothing of it."""

    mean: float
    half: float | None
    n: int

    @property
    def excludes_zero(self) -> bool:
        """Whether the interval lies on one side of zero. Never for a single run."""
        return self.half is not None and abs(self.mean) > self.half


def estimate(values: Sequence[float]) -> Estimate:
    """The mean and half of its 95 % interval, by Student's t with n - 1 degrees of freedom.

    Raises ValueError for no value, one that is not finite, or more than there is a quantile for.
    """
    n = len(values)
    if not 1 <= n <= len(T_975) + 1:
        raise ValueError(f"{n} values; expected 1 to {len(T_975) + 1}")
    if not all(math.isfinite(value) for value in values):
        raise ValueError(f"{list(values)} holds a value that is not finite")
    mean = math.fsum(values) / n
    if n == 1:
        return Estimate(mean, None, 1)
    variance = math.fsum((value - mean) ** 2 for value in values) / (n - 1)
    return Estimate(mean, T_975[n - 2] * math.sqrt(variance / n), n)


def paired(ours: Mapping[int, float], theirs: Mapping[int, float]) -> Estimate | None:
    """ours - theirs by seed, over the seeds that both have; None where they share none."""
    shared = sorted(ours.keys() & theirs.keys())
    if not shared:
        return None
    return estimate([ours[seed] - theirs[seed] for seed in shared])
