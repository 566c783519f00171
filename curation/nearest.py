"""The contrastive image m' of SymMPO: the nearest other image by CLIP cosine.

"Other" is by content: an image above `ceiling` is taken for the same picture saved again and is
no contrast. FAISS's flat index proposes the top k, `exact_cosines` decides; a query that the top
k cannot settle (too many near duplicates, or too close a race at its end) is scanned in full.
The answer is therefore exact, and ties go to the smaller index.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from curation.blind import IMPOSSIBLE, PairBlock, margin, strips
from curation.cosines import (
    Bool,
    Float16,
    Float32,
    Int64,
    check_rows,
    pair_cosines,
    threshold32,
)

TOP_K = 16  # others asked of the index for each query
ADD_ROWS = 1 << 14  # rows converted to float32 at once while the index is built

Search = Callable[[Float32, int], tuple[Float32, Int64]]
"""Given queries float32 [q, D] and k <= N: the k best scores float32 [q, k], falling, and their
rows int64 [q, k]. A score may be off by `blind.margin(D)`."""


@dataclass(frozen=True)
class Nearest:
    """For each query its neighbour (int64 [q], -1: none) and their cosine (float32 [q], or NaN).

    `duplicates` are all pairs of a query and another row above the ceiling, sorted by (a, b), each
    once: images that a split must not part. `scanned` is the number of queries that the top k
    could not settle.
    """

    neighbour: Int64
    cosine: Float32
    duplicates: PairBlock
    scanned: int


def nearest(
    vectors: Float16,
    queries: Int64,
    *,
    ceiling: float,
    block: int = 4096,
    search: Search | None = None,
) -> Nearest:
    """The nearest other row, with cosine <= ceiling, of each row that `queries` (int64 [q]) names.

    `vectors` are float16 unit rows [N, D]. Memory: FAISS holds float32 [N, D], twice the vectors
    (0.6 GB for 200,000 x 768), and at most as much again for a moment while it grows; beyond
    that two blocks of rows and one strip of cosines. A full scan costs about two float32 products
    of that query with all rows.

    Raises ValueError on rows that are not float16 unit rows, a query that is no row, or a block
    below 1.
    """
    check_rows(vectors)
    _check_queries(queries, len(vectors), block)
    neighbour = np.full(len(queries), -1, np.int64)
    cosine = np.full(len(queries), np.nan, np.float32)
    if len(queries) == 0:
        return Nearest(neighbour, cosine, _unique_pairs([]), 0)
    search = flat_index(vectors) if search is None else search
    settled = np.zeros(len(queries), np.bool_)
    met: list[PairBlock] = []
    for start in range(0, len(queries), block):
        part = slice(start, start + block)
        neighbour[part], cosine[part], settled[part], duplicates = _from_top_k(
            vectors, queries[part], ceiling, search
        )
        met.append(duplicates)
    left = np.flatnonzero(~settled)
    for start in range(0, len(left), block):
        at = left[start : start + block]
        neighbour[at], cosine[at], duplicates = _scan(vectors, queries[at], ceiling, block)
        met.append(duplicates)
    return Nearest(neighbour, cosine, _unique_pairs(met), len(left))


def flat_index(vectors: Float16) -> Search:
    """FAISS's exact inner-product index over all rows, on the GPUs where FAISS sees any."""
    import faiss  # a heavy import that the other rules do without

    index: Any = faiss.IndexFlatIP(vectors.shape[1])
    if hasattr(faiss, "StandardGpuResources") and faiss.get_num_gpus() > 0:
        index = faiss.index_cpu_to_all_gpus(index)
    for start in range(0, len(vectors), ADD_ROWS):
        index.add(vectors[start : start + ADD_ROWS].astype(np.float32))

    def search(queries: Float32, k: int) -> tuple[Float32, Int64]:
        scores, rows = index.search(queries, k)
        return scores, rows

    return search


def _from_top_k(
    vectors: Float16, queries: Int64, ceiling: float, search: Search
) -> tuple[Int64, Float32, Bool, PairBlock]:
    """Neighbours and cosines as far as the top k tells, which are settled, and duplicates met."""
    k = min(TOP_K + 1, len(vectors))  # one more: a query finds itself
    scores, rows = search(vectors[queries].astype(np.float32), k)
    flat = pair_cosines(vectors, np.repeat(queries, k), rows.ravel())
    cosines = flat.reshape(rows.shape)
    other = rows != queries[:, None]
    too_near = other & (cosines > threshold32(ceiling))
    found, best = _best(np.where(other & ~too_near, cosines, IMPOSSIBLE), rows)
    # A row outside the list scores at most the list's last, and its exact cosine at most a margin
    # more; the best must beat even that, for an equal cosine might have a smaller index. As the
    # best is no duplicate, no duplicate is outside the list of a settled query either.
    settled = best > scores[:, -1] + margin(vectors.shape[1])
    if k == len(vectors):
        settled[:] = True
    at, place = np.nonzero(too_near)
    left, right = queries[at], rows[at, place]
    pairs = PairBlock(np.minimum(left, right), np.maximum(left, right), cosines[at, place])
    return found, np.where(found < 0, np.float32(np.nan), best), settled, pairs


def _best(cosines: Float32, rows: Int64) -> tuple[Int64, Float32]:
    """The greatest cosine of each query and the smallest row that has it; -1 where none has."""
    best = cosines.max(axis=1)
    holders = np.where(cosines == best[:, None], rows, np.iinfo(np.int64).max)
    return np.where(best == IMPOSSIBLE, -1, holders.min(axis=1)), best


def _scan(
    vectors: Float16, queries: Int64, ceiling: float, block: int
) -> tuple[Int64, Float32, PairBlock]:
    """The same answer from all rows: float64 products are exact, so nothing is left to decide."""
    met: list[PairBlock] = []
    best = np.full(len(queries), IMPOSSIBLE, np.float32)
    found = np.full(len(queries), -1, np.int64)
    asked = vectors[queries].astype(np.float64)
    for start in range(0, len(vectors), block):
        rows = vectors[start : start + block].astype(np.float64)
        for low, high in strips(len(asked), len(rows)):
            cosines: Float32 = np.matmul(asked[low:high], rows.T).astype(np.float32)
            own = queries[low:high] - start
            inside = np.flatnonzero((own >= 0) & (own < len(rows)))
            cosines[inside, own[inside]] = IMPOSSIBLE
            at, near = np.nonzero(cosines > threshold32(ceiling))
            left, right = queries[low:high][at], near + start
            met.append(
                PairBlock(np.minimum(left, right), np.maximum(left, right), cosines[at, near])
            )
            cosines[at, near] = IMPOSSIBLE
            place = cosines.argmax(axis=1)  # the first of equals: the smallest row
            value = cosines[np.arange(high - low), place]
            better = value > best[low:high]  # strictly: an earlier block has smaller rows
            best[low:high][better] = value[better]
            found[low:high][better] = place[better] + start
    return found, np.where(found < 0, np.float32(np.nan), best), _unique_pairs(met)


def _unique_pairs(blocks: list[PairBlock]) -> PairBlock:
    if not blocks:
        none = np.empty(0, np.int64)
        return PairBlock(none, none, np.empty(0, np.float32))
    a = np.concatenate([block.a for block in blocks])
    b = np.concatenate([block.b for block in blocks])
    cosine = np.concatenate([block.cosine for block in blocks])
    order = np.lexsort((b, a))
    a, b, cosine = a[order], b[order], cosine[order]
    first = np.ones(len(a), np.bool_)
    first[1:] = (a[1:] != a[:-1]) | (b[1:] != b[:-1])
    return PairBlock(a[first], b[first], cosine[first])


def _check_queries(queries: Int64, n: int, block: int) -> None:
    if block < 1:
        raise ValueError(f"block is {block}, expected at least 1 row")
    if queries.dtype != np.int64 or queries.ndim != 1:
        raise ValueError(
            f"queries are {queries.dtype} of shape {queries.shape}, expected int64 [q]"
        )
    if queries.size and not (queries.min() >= 0 and queries.max() < n):
        raise ValueError(
            f"queries run from {queries.min()} to {queries.max()}, expected rows 0 to {n - 1}"
        )
