"""Geometry of the report's charts, in the units of an SVG's view box. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from report.content import Lengths

BINS = 24
WIDTH, HEIGHT = 320, 96  # of the plot, without its labels


@dataclass(frozen=True, slots=True)
class Bar:
    """`low` and `high`: the first and the last number of words in the bin; `count` texts."""

    x: float
    y: float
    width: float
    height: float
    low: int
    high: int
    count: int


@dataclass(frozen=True, slots=True)
class Histogram:
    """`most`: the highest bar's count. `last`: the number of words at which the axis ends."""

    name: str
    bars: Sequence[Bar]
    texts: int
    median: int
    most: int
    last: int


def histograms(lengths: Sequence[Lengths]) -> list[Histogram]:
    """One histogram a kind of text. All have the same bins and scale, so that they compare."""
    filled = [one for one in lengths if one.counts]
    if not filled:
        return []
    longest = max(max(one.counts) for one in filled)
    step = -(-(longest + 1) // BINS)
    bins = -(-(longest + 1) // step)
    binned = [_binned(one, step, bins) for one in filled]
    most = max(max(counts) for counts in binned)
    return [
        Histogram(
            one.name,
            _bars(counts, step, most),
            sum(counts),
            median(one.counts),
            most,
            step * bins - 1,
        )
        for one, counts in zip(filled, binned, strict=True)
    ]


def median(counts: dict[int, int]) -> int:
    """The smallest value that half of the texts do not exceed. Raises ValueError without texts."""
    texts = sum(counts.values())
    seen = 0
    for value in sorted(counts):
        seen += counts[value]
        if 2 * seen >= texts > 0:
            return value
    raise ValueError("no texts: a median needs at least one")


def _binned(lengths: Lengths, step: int, bins: int) -> list[int]:
    counts = [0] * bins
    for words, texts in lengths.counts.items():
        counts[words // step] += texts
    return counts


def _bars(counts: Sequence[int], step: int, most: int) -> list[Bar]:
    width = WIDTH / len(counts)
    bars = []
    for number, count in enumerate(counts):
        # A bar of a single text must still be seen.
        height = max(HEIGHT * count / most, 1.0) if count else 0.0
        low = number * step
        bars.append(Bar(number * width, HEIGHT - height, width, height, low, low + step - 1, count))
    return [bar for bar in bars if bar.count]
