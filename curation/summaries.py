"""What a dataset card says, as numbers: lengths, cosines, costs, provenance."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from config.recipe import Split
from curation.pairs import count_words
from curation.splits import Splits

BINS_PER_UNIT = 20  # histogram bins 0.05 wide over [-1, 1]


@dataclass(frozen=True)
class Lengths:
    """Words of one kind of text. p90: the smallest length that 90 % of the texts do not exceed."""

    mean: float
    median: float
    p90: int


@dataclass(frozen=True)
class LengthBalance:
    """Whether length tells chosen from rejected. `longer`, `equal`: shares of the rows."""

    chosen: Lengths
    rejected: Lengths
    longer: float
    equal: float


@dataclass(frozen=True)
class Cosines:
    """Cosines of the kept (m, m') by one encoder. `bins` are (low, high, count), none empty."""

    encoder: str
    count: int
    lowest: float
    median: float
    highest: float
    bins: tuple[tuple[float, float, int], ...]


@dataclass(frozen=True)
class StageCost:
    """What one stage did for this dataset. Dollars are those of the endpoint's prices."""

    stage: str
    rows: int
    failed: int
    calls: int
    prompt_tokens: int
    completion_tokens: int
    cost_usd: float


@dataclass(frozen=True)
class ModelUse:
    """A model in its role. `digest` of its weights; None where an endpoint serves it."""

    role: str
    name: str
    digest: str | None = None


@dataclass(frozen=True)
class PromptUse:
    stage: str
    name: str
    digest: str


@dataclass(frozen=True)
class CardStats:
    """All that a card says. `failures` are (stage, class of error, rows)."""

    name: str
    dataset_digest: str
    recipe_digest: str
    strategy: str
    thresholds: Mapping[str, float]
    rows: int
    kept: int
    contrasts: int
    images: int
    refused: Mapping[str, int]
    drops: Mapping[str, int]
    shares: Split
    splits: Splits
    lengths: LengthBalance | None
    cosines: Sequence[Cosines]
    models: Sequence[ModelUse]
    prompts: Sequence[PromptUse]
    stages: Sequence[StageCost]
    failures: Sequence[tuple[str, str, int]]


def length_balance(pairs: Iterable[tuple[str, str]]) -> LengthBalance:
    """Lengths in words of (chosen, rejected) texts. Raises ValueError where there are none."""
    counts = [(count_words(chosen), count_words(rejected)) for chosen, rejected in pairs]
    if not counts:
        raise ValueError("no rows: lengths need at least one pair of texts")
    return LengthBalance(
        chosen=_lengths([chosen for chosen, _ in counts]),
        rejected=_lengths([rejected for _, rejected in counts]),
        longer=sum(chosen > rejected for chosen, rejected in counts) / len(counts),
        equal=sum(chosen == rejected for chosen, rejected in counts) / len(counts),
    )


def _lengths(words: list[int]) -> Lengths:
    rank = math.ceil(0.9 * len(words))  # nearest rank
    return Lengths(statistics.fmean(words), statistics.median(words), sorted(words)[rank - 1])


def summarise_cosines(encoder: str, cosines: Iterable[float]) -> Cosines:
    """Range, median and histogram of cosines. Raises ValueError where there are none."""
    values = sorted(cosines)
    if not values:
        raise ValueError(f"no {encoder} cosines: a summary needs at least one")
    counts: dict[int, int] = {}
    for value in values:
        # Rounded first: a float32 of 0.95 belongs to the bin that starts there.
        place = math.floor(round(value * BINS_PER_UNIT, 5))
        place = min(max(place, -BINS_PER_UNIT), BINS_PER_UNIT - 1)
        counts[place] = counts.get(place, 0) + 1
    bins = tuple(
        (place / BINS_PER_UNIT, (place + 1) / BINS_PER_UNIT, count)
        for place, count in sorted(counts.items())
    )
    median = statistics.median(values)
    return Cosines(encoder, len(values), values[0], median, values[-1], bins)
