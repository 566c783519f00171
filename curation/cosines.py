"""Exact cosines of float16 unit rows, and what is counted about them.

Every cosine that leaves this package is `exact_cosines`'s value. It is exact because a float16
is a multiple of 2^-24: a product of two is a multiple of 2^-48, any partial sum of a cosine of
unit rows is below 32 = 2^-48 * 2^53 (Cauchy-Schwarz), and so a float64 holds every partial sum
without rounding, in whatever order it is added up. One rounding to float32 follows. The value
therefore depends on the two rows alone: not on the block, the order of rows, the BLAS or the
number of threads.

A threshold is rounded to float32 too (`threshold32`) and comparisons are between float32 values,
so that a cosine equal to the threshold is neither above nor below it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Float16 = NDArray[np.float16]
Float32 = NDArray[np.float32]
Int64 = NDArray[np.int64]
Bool = NDArray[np.bool_]

CLIP_STEPS = (-0.04, -0.02, -0.01, 0.0, 0.01, 0.02)
DINO_STEPS = (-0.2, -0.1, -0.05, 0.0, 0.05, 0.1, 0.2)

NORM_TOLERANCE = 0.01  # float16 rounding alone moves a norm by at most 2^-11
CHUNK_VALUES = 1 << 20  # values converted to float32 at once
DENSE_SHARE = 256  # more than one pair in so many: the whole rectangle is quicker than a gather

BIN_WIDTH = 0.02
BINS = 100
BIN_EDGES: Float32 = np.round(np.linspace(-1.0, 1.0, BINS + 1), 2).astype(np.float32)


def threshold32(threshold: float) -> np.float32:
    """The float32 next to a threshold: what every comparison with a cosine uses."""
    return np.float32(threshold)


def check_rows(vectors: Float16) -> None:
    """Refuses vectors that are not finite float16 unit rows [N, D]; reads them in chunks.

    Raises ValueError naming the first bad row.
    """
    if vectors.ndim != 2 or vectors.dtype != np.float16 or vectors.shape[1] == 0:
        raise ValueError(
            f"vectors are {vectors.dtype} of shape {vectors.shape}, expected float16 [N, D]: "
            "convert unit rows with astype(numpy.float16)"
        )
    step = _rows_at_once(vectors.shape[1])
    for start in range(0, len(vectors), step):
        rows = vectors[start : start + step].astype(np.float32)
        norms = np.sqrt(np.vecdot(rows, rows))
        bad = np.flatnonzero(~(np.abs(norms - 1.0) <= NORM_TOLERANCE))  # ~: NaN is bad too
        if bad.size:
            row = int(bad[0])
            raise ValueError(
                f"row {start + row} of the vectors has norm {norms[row]:g}, expected 1: "
                "embed that image again"
            )


def exact_cosines(left: Float16, right: Float16) -> Float32:
    """Cosines float32 [n] of the row pairs of two float16 [n, D] arrays of unit rows.

    Raises ValueError where the shapes differ or the rows are not float16.
    """
    if left.shape != right.shape or left.ndim != 2:
        raise ValueError(
            f"rows of shapes {left.shape} and {right.shape}: expected two [n, D] arrays alike"
        )
    if left.dtype != np.float16 or right.dtype != np.float16:
        raise ValueError(f"rows are {left.dtype} and {right.dtype}, expected float16")
    out = np.empty(len(left), np.float32)
    step = _rows_at_once(left.shape[1])
    for start in range(0, len(left), step):
        part = slice(start, start + step)
        # The product of two float16 values has 22 bits: float32 holds it exactly.
        products = left[part].astype(np.float32) * right[part].astype(np.float32)
        out[part] = products.sum(axis=1, dtype=np.float64)
    return out


def exact_product(left: Float16, right: Float16) -> Float32:
    """Cosines float32 [n, m] of every row of `left` [n, D] with every row of `right` [m, D]."""
    product: Float32 = np.matmul(left.astype(np.float64), right.astype(np.float64).T).astype(
        np.float32
    )
    return product


def exact_cosines_at(rows: Float16, cols: Float16, i: Int64, j: Int64) -> Float32:
    """Cosines float32 [n] of rows[i] with cols[j]; quick both for few and for very many pairs."""
    if i.size == 0:
        return np.empty(0, np.float32)
    first, last = int(i.min()), int(i.max()) + 1
    if i.size * DENSE_SHARE > (last - first) * len(cols):
        return exact_product(rows[first:last], cols)[i - first, j]
    return pair_cosines(rows, i, j, right=cols)


def pair_cosines(vectors: Float16, a: Int64, b: Int64, right: Float16 | None = None) -> Float32:
    """Cosines float32 [n] of vectors[a] with right[b] (by default vectors[b]), read in chunks."""
    right = vectors if right is None else right
    out = np.empty(len(a), np.float32)
    step = _rows_at_once(vectors.shape[1])
    for start in range(0, len(a), step):
        part = slice(start, start + step)
        out[part] = exact_cosines(vectors[a[part]], right[b[part]])
    return out


@dataclass
class Histogram:
    """How many cosines fall in each bin [e, e + 0.02) over [-1, 1]; 1 is in the last bin.

    Rounding to float16 lets a cosine stand slightly outside [-1, 1]: it counts in the end bin.
    """

    counts: Int64

    @classmethod
    def empty(cls) -> Histogram:
        return cls(np.zeros(BINS, np.int64))

    def add(self, cosines: Float32) -> None:
        """Counts cosines float32 [n]. Raises ValueError on NaN or a value that is no cosine."""
        _check_cosines(cosines)
        bins = np.searchsorted(BIN_EDGES, cosines, side="right") - 1
        self.counts += np.bincount(np.clip(bins, 0, BINS - 1), minlength=BINS)

    def __add__(self, other: Histogram) -> Histogram:
        return Histogram(self.counts + other.counts)


def sample_pairs(n: int, limit: int, seed: int) -> tuple[Int64, Int64]:
    """`limit` distinct pairs a < b of n images, or all n (n - 1) / 2 where that is fewer.

    One pair is drawn from each of `limit` equal runs of all pairs in order of (b, a), so the
    sample is spread evenly, is sorted, and costs memory for the sample alone.
    """
    if limit < 1:
        raise ValueError(f"a sample of {limit} pairs, expected at least 1")
    total = n * (n - 1) // 2
    if total <= limit:
        return _unrank(np.arange(total, dtype=np.int64))
    share, rest = divmod(total, limit)
    steps = np.arange(limit + 1, dtype=np.int64)
    starts = steps * share + steps * rest // limit
    drawn = np.random.Generator(np.random.PCG64(seed)).integers(starts[:-1], starts[1:])
    return _unrank(drawn)


def sampled_histogram(vectors: Float16, *, limit: int = 1_000_000, seed: int = 0) -> Histogram:
    """The histogram of cosines between all images, from `sample_pairs`."""
    check_rows(vectors)
    histogram = Histogram.empty()
    a, b = sample_pairs(len(vectors), limit, seed)
    histogram.add(pair_cosines(vectors, a, b))
    return histogram


def neighbouring(centre: float, steps: tuple[float, ...]) -> tuple[float, ...]:
    """The thresholds centre + step that are cosines, ascending and free of float dust."""
    near = sorted({round(centre + step, 6) for step in steps})
    return tuple(edge for edge in near if -1.0 <= edge <= 1.0)


@dataclass
class EdgeCounts:
    """How many cosines lie strictly above each edge: `above` int64 [E]. Counts can be added up."""

    edges: tuple[float, ...]
    above: Int64

    def __post_init__(self) -> None:
        if list(self.edges) != sorted(set(self.edges)):
            raise ValueError(f"thresholds {self.edges}, expected them ascending, each once")

    @classmethod
    def around(cls, clip_min: float) -> EdgeCounts:
        """Nothing counted yet, at the CLIP thresholds next to `clip_min`."""
        return cls.at(neighbouring(clip_min, CLIP_STEPS))

    @classmethod
    def at(cls, edges: tuple[float, ...]) -> EdgeCounts:
        return cls(edges, np.zeros(len(edges), np.int64))

    def add(self, cosines: Float32) -> None:
        for place, edge in enumerate(self.edges):
            self.above[place] += np.count_nonzero(cosines > threshold32(edge))

    def __add__(self, other: EdgeCounts) -> EdgeCounts:
        _check_same(self.edges, other.edges)
        return EdgeCounts(self.edges, self.above + other.above)


@dataclass
class JointCounts:
    """Pairs with CLIP above and DINO below each pair of edges: `passing` int64 [C, D].

    It is fed the pairs whose DINO cosine is known, which are those above `clip_min`; so its CLIP
    edges start there. Counts can be added up.
    """

    clip_edges: tuple[float, ...]
    dino_edges: tuple[float, ...]
    passing: Int64

    @classmethod
    def around(cls, clip_min: float, dino_max: float) -> JointCounts:
        """Nothing counted yet, at the thresholds next to the two given."""
        known = tuple(step for step in CLIP_STEPS if step >= 0)
        clip, dino = neighbouring(clip_min, known), neighbouring(dino_max, DINO_STEPS)
        return cls(clip, dino, np.zeros((len(clip), len(dino)), np.int64))

    def add(self, clip: Float32, dino: Float32) -> None:
        """Counts pairs by their CLIP and DINO cosines, float32 [n] each. Raises ValueError."""
        if clip.shape != dino.shape:
            raise ValueError(f"{clip.shape} CLIP and {dino.shape} DINO cosines, expected as many")
        _check_cosines(dino)
        for row, clip_edge in enumerate(self.clip_edges):
            passed = dino[clip > threshold32(clip_edge)]
            for column, dino_edge in enumerate(self.dino_edges):
                self.passing[row, column] += np.count_nonzero(passed < threshold32(dino_edge))

    def __add__(self, other: JointCounts) -> JointCounts:
        _check_same(self.clip_edges + self.dino_edges, other.clip_edges + other.dino_edges)
        return JointCounts(self.clip_edges, self.dino_edges, self.passing + other.passing)


@dataclass(frozen=True)
class Yield:
    """Pairs at one CLIP threshold, and at one DINO threshold where there is one.

    `pairs` is None where the count is unknown: DINO is computed only above `clip_min`.
    """

    clip_min: float
    dino_max: float | None
    pairs: int | None


def yields(clip: EdgeCounts, joint: JointCounts | None = None) -> list[Yield]:
    """The exact number of pairs at each neighbouring threshold, in order of (CLIP, DINO).

    At each CLIP threshold first the pairs by CLIP alone (dino_max None), then, given `joint`,
    the pairs at each DINO threshold.
    """
    rows: list[Yield] = []
    for edge, above in zip(clip.edges, clip.above.tolist(), strict=True):
        rows.append(Yield(edge, None, above))
        if joint is None:
            continue
        known = edge in joint.clip_edges
        passing: list[Any] = [None] * len(joint.dino_edges)
        if known:
            passing = joint.passing[joint.clip_edges.index(edge)].tolist()
        rows += [Yield(edge, d, n) for d, n in zip(joint.dino_edges, passing, strict=True)]
    return rows


def _rows_at_once(dimension: int) -> int:
    return max(1, CHUNK_VALUES // max(1, dimension))


def _unrank(number: Int64) -> tuple[Int64, Int64]:
    """The pair a < b with number b (b - 1) / 2 + a."""
    b = ((1.0 + np.sqrt(1.0 + 8.0 * number.astype(np.float64))) / 2.0).astype(np.int64)
    b -= b * (b - 1) // 2 > number  # the square root may be one off for large numbers
    b += b * (b + 1) // 2 <= number
    return number - b * (b - 1) // 2, b


def _check_cosines(cosines: Float32) -> None:
    bad = ~(np.abs(cosines) <= 1.0 + 2 * NORM_TOLERANCE + NORM_TOLERANCE**2)
    if bad.any():
        raise ValueError(f"{cosines[bad][0]!r} is no cosine, expected values in [-1, 1]")


def _check_same(edges: tuple[float, ...], others: tuple[float, ...]) -> None:
    if edges != others:
        raise ValueError(
            f"counts at thresholds {edges} and {others} cannot be added: count the pairs again"
        )
