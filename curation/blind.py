"""CLIP-blind pairs: all pairs of images that one encoder takes for alike and another does not.

JoMPO (section on CLIP-blind pairs) looks inside random batches of 2,048 images; here every pair
is looked at once, exactly. `pairs_above` multiplies blocks of rows over the upper triangle in
float32, which only decides which pairs are worth `exact_cosines`.

Why a float32 product is safe as a filter. Its products are exact (22 bits), and adding up D of
them in any order errs by at most D * 2^-24 * |x| |y| (Higham, Accuracy and Stability of Numerical
Algorithms, section 3.1), with |x| |y| below 1.03 by `check_rows`. `margin(D)` is twice that and a
little more, which also covers rounding the cosine and the threshold to float32 and adders that
cut off where they should round. It is 9e-5 at D = 768 and 5e-4 at D = 4096: wide enough to be
certain, and too narrow to let many needless pairs through.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from curation.cosines import (
    Bool,
    EdgeCounts,
    Float16,
    Float32,
    Int64,
    check_rows,
    exact_cosines_at,
    threshold32,
)

STRIP_VALUES = 1 << 21  # cosines scanned at once, and the most pairs in one PairBlock
IMPOSSIBLE = np.float32(-2.0)  # below every cosine: takes a pair out of a scan


@dataclass(frozen=True)
class PairBlock:
    """Pairs of rows a < b (int64 [n]) with their exact cosines (float32 [n])."""

    a: Int64
    b: Int64
    cosine: Float32

    def __len__(self) -> int:
        return len(self.a)


@dataclass(frozen=True)
class Limits:
    """What a scan has to know: the threshold, edges below it to count at, and the margin."""

    threshold: float
    edges: tuple[float, ...]
    margin: float

    @property
    def floor(self) -> float:
        """Pairs whose float32 cosine is at most this matter to nobody."""
        return min((self.threshold, *self.edges)) - self.margin


@dataclass(frozen=True)
class Scan:
    """A part of one block: rows[i] with cols[j] await their exact cosine, the rest is certain.

    `above` int64 [E] counts the certain ones above each of `Limits.edges`; they are all below the
    threshold. i, j: int64 [n], n at most STRIP_VALUES.
    """

    i: Int64
    j: Int64
    above: Int64


class Product(Protocol):
    """Multiplies blocks of rows and hands back only what may pass, so it may run on a device."""

    def load(self, rows: Float16) -> Any:
        """The rows [n, D] in the form that `scan` takes."""

    def scan(self, rows: Any, cols: Any, limits: Limits, *, triangle: bool) -> Iterator[Scan]:
        """All pairs of loaded rows and cols; with `triangle` (rows are cols) those with i < j."""


class NumpyProduct:
    """`Product` on the CPU: strips of rows, multiplied into one buffer that stays in the cache."""

    def __init__(self) -> None:
        self._buffer = np.empty(0, np.float32)

    def load(self, rows: Float16) -> Float32:
        return rows.astype(np.float32)

    def scan(
        self, rows: Float32, cols: Float32, limits: Limits, *, triangle: bool
    ) -> Iterator[Scan]:
        for start, stop in strips(len(rows), len(cols)):
            left = start if triangle else 0  # earlier columns are below the diagonal
            scores = self._out(stop - start, len(cols) - left)
            np.matmul(rows[start:stop], cols[left:].T, out=scores)
            if triangle:
                scores[np.tril_indices(stop - start)] = IMPOSSIBLE
            live = np.flatnonzero(scores.max(axis=1) > limits.floor)
            if live.size:
                yield _sift(scores, live, limits, start, left)

    def _out(self, n: int, m: int) -> Float32:
        if self._buffer.size < n * m:
            self._buffer = np.empty(n * m, np.float32)
        return self._buffer[: n * m].reshape(n, m)


def pairs_above(
    vectors: Float16,
    threshold: float,
    *,
    block: int = 4096,
    is_new: Bool | None = None,
    product: Product | None = None,
    counts: EdgeCounts | None = None,
    part: tuple[int, int] | None = None,
) -> Iterator[PairBlock]:
    """All unordered pairs of rows of `vectors` [N, D] with cosine > threshold, each once.

    With `is_new` (bool [N]) only pairs with a new row: the work is new x all. `part` (start, stop)
    gives the share of the new rows at these places among the new ones: with later new rows, and
    with all old ones; parts that cover all places have each pair in one of them. `counts` is added
    the pairs looked at, exactly and also below the threshold; it is whole once the iterator is
    exhausted. Blocks come in no promised order, but what they hold together depends neither on
    `block` nor on `product`. Memory: two blocks of rows, one strip of cosines, one PairBlock.

    Raises ValueError on rows that are not float16 unit rows, a part that is no range of the new
    rows, or a block below 1.
    """
    if block < 1:
        raise ValueError(f"block is {block}, expected at least 1 row")
    check_rows(vectors)
    sides = _sides(len(vectors), is_new)
    edges = () if counts is None else counts.edges
    limits = Limits(threshold, tuple(e for e in edges if e < threshold), margin(vectors.shape[1]))
    product = NumpyProduct() if product is None else product
    start, stop = (0, len(sides[0])) if part is None else part
    if not 0 <= start <= stop <= len(sides[0]):
        raise ValueError(f"part is {part}, expected places among {len(sides[0])} new rows")
    return _walk(vectors, sides, (start, stop), limits, block, product, counts)


def is_blind(clip: Float32, dino: Float32, clip_min: float, dino_max: float) -> Bool:
    """bool [n]: CLIP cosine > clip_min and DINO cosine < dino_max (JoMPO: 0.95 and 0.6)."""
    return (clip > threshold32(clip_min)) & (dino < threshold32(dino_max))


def margin(dimension: int) -> float:
    """How far a float32 cosine may stand from the exact one, with room to spare."""
    return (dimension + 8) * 2.0**-23


def strips(n: int, m: int) -> Iterator[tuple[int, int]]:
    """Runs of rows whose cosines with m columns number at most STRIP_VALUES (or are one row)."""
    step = max(1, STRIP_VALUES // max(1, m))
    for start in range(0, n, step):
        yield start, min(n, start + step)


def _walk(
    vectors: Float16,
    sides: tuple[Int64, Int64],
    part: tuple[int, int],
    limits: Limits,
    block: int,
    product: Product,
    counts: EdgeCounts | None,
) -> Iterator[PairBlock]:
    fresh, old = sides
    for start in range(*part, block):
        stop = min(start + block, part[1])
        at = fresh[start:stop]
        rows = vectors[at]
        loaded = product.load(rows)
        for cols_at, triangle in _partners(fresh, old, start, stop, block):
            cols = rows if triangle else vectors[cols_at]
            loaded_cols = loaded if triangle else product.load(cols)
            for scan in product.scan(loaded, loaded_cols, limits, triangle=triangle):
                cosines = exact_cosines_at(rows, cols, scan.i, scan.j)
                _count(counts, cosines, scan)
                passed = cosines > threshold32(limits.threshold)
                if passed.any():
                    yield _pairs(at[scan.i[passed]], cols_at[scan.j[passed]], cosines[passed])


def _sides(n: int, is_new: Bool | None) -> tuple[Int64, Int64]:
    if is_new is None:
        return np.arange(n, dtype=np.int64), np.empty(0, np.int64)
    if is_new.shape != (n,) or is_new.dtype != np.bool_:
        raise ValueError(
            f"is_new is {is_new.dtype} of shape {is_new.shape}, expected one bool for each of "
            f"{n} rows"
        )
    return np.flatnonzero(is_new).astype(np.int64), np.flatnonzero(~is_new).astype(np.int64)


def _partners(
    fresh: Int64, old: Int64, start: int, stop: int, block: int
) -> Iterator[tuple[Int64, bool]]:
    """The column blocks of one block of new rows, and whether that block is the diagonal one."""
    yield fresh[start:stop], True
    for place in range(stop, len(fresh), block):
        yield fresh[place : place + block], False
    for place in range(0, len(old), block):
        yield old[place : place + block], False


def _sift(scores: Float32, live: Int64, limits: Limits, start: int, left: int) -> Scan:
    """Parts the pairs of a strip's live rows into those to decide exactly and certain counts."""
    rows = scores if live.size == len(scores) else scores[live]
    flat = np.flatnonzero(rows > limits.floor)
    values = rows.ravel()[flat]
    decide = values > limits.threshold - limits.margin
    for edge in limits.edges:
        decide |= np.abs(values - edge) <= limits.margin
    sure = values[~decide]
    above = np.array([np.count_nonzero(sure > edge) for edge in limits.edges], np.int64)
    i, j = np.divmod(flat[decide], rows.shape[1])
    return Scan(live[i] + start, j + left, above)


def _count(counts: EdgeCounts | None, cosines: Float32, scan: Scan) -> None:
    if counts is None:
        return
    counts.add(cosines)
    counts.above[: len(scan.above)] += scan.above


def _pairs(left: Int64, right: Int64, cosines: Float32) -> PairBlock:
    return PairBlock(np.minimum(left, right), np.maximum(left, right), cosines)
