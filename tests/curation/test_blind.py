"""All pairs above a threshold, against a plain float64 product of everything with everything."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curation import blind
from curation.blind import NumpyProduct, PairBlock, is_blind, margin, pairs_above
from curation.cosines import EdgeCounts

Pairs = dict[tuple[int, int], float]


def clustered_rows(seed: int, n: int, dimension: int = 32) -> Any:
    """Clusters with cosines of all sizes; every fifth row copies, or nearly copies, another."""
    drawn = np.random.default_rng(seed)
    centres = drawn.standard_normal((max(1, n // 6), dimension))
    spread = drawn.choice([0.05, 0.2, 0.35], n)[:, None]
    rows = centres[drawn.integers(0, len(centres), n)] + spread * drawn.standard_normal(
        (n, dimension)
    )
    for k in range(0, n, 5):
        rows[k] = rows[drawn.integers(0, n)] + (k % 2) * 1e-3 * drawn.standard_normal(dimension)
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float16)


def crowded_at_95(n: int) -> Any:
    """Cosines of .95 +- .002: about one pair in 25 stands within the margin of .95."""
    own = np.random.default_rng(6).standard_normal((n, 768))
    rows = np.sqrt(0.05) * own / np.linalg.norm(own, axis=1, keepdims=True)
    rows[:, 0] += np.sqrt(0.95)
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float16)


def collected(blocks: Iterable[PairBlock]) -> Pairs:
    found: Pairs = {}
    for part in blocks:
        for a, b, cosine in zip(part.a.tolist(), part.b.tolist(), part.cosine, strict=True):
            assert a < b
            assert (a, b) not in found, "a pair was given twice"
            found[a, b] = cosine
    return found


def all_cosines(vectors: Any) -> Any:
    wide = np.asarray(vectors).astype(np.float64)
    return (wide @ wide.T).astype(np.float32)


def brute_force(vectors: Any, threshold: float) -> Pairs:
    cosines = all_cosines(vectors)
    a, b = np.nonzero(np.triu(cosines > np.float32(threshold), 1))
    return {(int(x), int(y)): cosines[x, y] for x, y in zip(a, b, strict=True)}


@pytest.mark.parametrize("block", [1, 7, 64, 4096])
@pytest.mark.parametrize("threshold", [0.95, 0.6, -1.0])
def test_equals_brute_force(block: int, threshold: float) -> None:
    vectors = clustered_rows(1, 150)
    expected = brute_force(vectors, threshold)
    assert len(expected) > 100
    assert collected(pairs_above(vectors, threshold, block=block)) == expected


def test_random_vectors_of_real_width() -> None:
    rows = np.random.default_rng(0).standard_normal((600, 768))
    vectors = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float16)
    expected = brute_force(vectors, 0.08)
    assert 500 < len(expected) < 10_000
    assert collected(pairs_above(vectors, 0.08, block=256)) == expected


@given(st.integers(0, 10**6), st.integers(2, 60), st.integers(1, 70), st.integers(1, 500))
@settings(max_examples=40, deadline=None)
def test_block_strip_and_row_order_do_not_matter(seed: int, n: int, block: int, strip: int) -> None:
    vectors = clustered_rows(seed, n, 12)
    order = np.random.default_rng(seed + 1).permutation(n)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blind, "STRIP_VALUES", strip)
        shuffled = collected(pairs_above(vectors[order], 0.9, block=block))
    back = {
        (int(min(order[a], order[b])), int(max(order[a], order[b]))): cosine
        for (a, b), cosine in shuffled.items()
    }
    assert back == brute_force(vectors, 0.9)


@given(st.integers(0, 10**6), st.integers(2, 60), st.integers(1, 30), st.integers(0, 60))
@settings(max_examples=40, deadline=None)
def test_old_pairs_and_new_pairs_are_all_pairs(seed: int, n: int, block: int, new: int) -> None:
    vectors = clustered_rows(seed, n, 12)
    is_new = np.zeros(n, np.bool_)
    is_new[np.random.default_rng(seed).permutation(n)[:new]] = True
    was = np.flatnonzero(~is_new)
    counts, added = EdgeCounts.around(0.9), EdgeCounts.around(0.9)
    before = collected(pairs_above(vectors[was], 0.9, block=block, counts=counts))
    after = collected(pairs_above(vectors, 0.9, block=block, is_new=is_new, counts=added))
    assert all(is_new[a] or is_new[b] for a, b in after)
    whole = EdgeCounts.around(0.9)
    whole.add(all_cosines(vectors)[np.triu_indices(n, 1)])
    union = {(int(was[a]), int(was[b])): cosine for (a, b), cosine in before.items()} | after
    assert union == brute_force(vectors, 0.9)
    assert (counts + added).above.tolist() == whole.above.tolist()


class CountingProduct(NumpyProduct):
    """Counts the pairs that were multiplied."""

    looked_at = 0

    def scan(self, rows: Any, cols: Any, limits: Any, *, triangle: bool) -> Any:
        self.looked_at += len(rows) * (len(rows) - 1) // 2 if triangle else len(rows) * len(cols)
        return super().scan(rows, cols, limits, triangle=triangle)


def test_the_work_is_each_pair_once_and_new_times_all() -> None:
    vectors = clustered_rows(2, 100)
    product = CountingProduct()
    collected(pairs_above(vectors, 0.9, block=9, product=product))
    assert product.looked_at == 100 * 99 // 2
    is_new = np.zeros(100, np.bool_)
    is_new[[3, 50, 99]] = True
    product = CountingProduct()
    collected(pairs_above(vectors, 0.9, block=9, is_new=is_new, product=product))
    assert product.looked_at == 3 * 97 + 3
    product = CountingProduct()
    none_new = np.zeros(100, np.bool_)
    assert collected(pairs_above(vectors, 0.9, is_new=none_new, product=product)) == {}
    assert product.looked_at == 0


@pytest.mark.parametrize("block", [10, 4096])
def test_counts_are_exact_at_thresholds_that_cosines_hit(block: int) -> None:
    vectors = crowded_at_95(120)
    cosines = all_cosines(vectors)[np.triu_indices(120, 1)]
    edges = tuple(np.unique(cosines)[::300].tolist())
    assert 10 < sum(edge < 0.951 for edge in edges) < len(edges)
    counts = EdgeCounts.at(edges)
    found = collected(pairs_above(vectors, 0.951, block=block, counts=counts))
    assert found == brute_force(vectors, 0.951)
    assert counts.above.tolist() == [int((cosines > np.float32(edge)).sum()) for edge in edges]


def test_pairs_equal_to_the_threshold_are_left_out() -> None:
    vectors = np.array([[0.5, 0.5, 0.5, 0.5], [0.5, 0.5, 0.5, -0.5], [1, 0, 0, 0]], np.float16)
    assert collected(pairs_above(vectors, 0.5)) == {}
    assert collected(pairs_above(vectors, 0.4999)) == {(0, 1): 0.5, (0, 2): 0.5, (1, 2): 0.5}


@pytest.mark.parametrize("dimension", [2, 768, 4096, 8192])
def test_margin_is_twice_the_worst_float32_sum(dimension: int) -> None:
    """Equal positive parts added one after another round worst of all orders."""
    row = np.full(dimension, 1 / np.sqrt(dimension)).astype(np.float16)
    others = np.abs(clustered_rows(1, 50, dimension))
    for other in (row, *others):
        products = row.astype(np.float32) * other.astype(np.float32)
        in_turn = np.cumsum(products, dtype=np.float32)[-1]
        assert abs(float(in_turn) - float(products.sum(dtype=np.float64))) < margin(dimension) / 2
    assert margin(dimension) < 1.1e-3


class PoorProduct(NumpyProduct):
    """Cosines as wrong as the margin allows: every other one too low, the rest too high."""

    def load(self, rows: Any) -> Any:
        # One more column each way: adds +-0.9 margin to a product, and is not in the exact rows.
        n, dimension = rows.shape
        size = np.sqrt(0.9 * margin(dimension))
        sign = np.where(np.arange(n) % 2, -size, size)
        return np.column_stack([rows.astype(np.float32), sign]).astype(np.float32)


@pytest.mark.parametrize("edges", [(0.949, 0.95, 0.951), (0.9495, 0.9505, 0.951), (0.951, 0.952)])
def test_a_float32_product_as_wrong_as_the_margin_changes_nothing(edges: Any) -> None:
    vectors = crowded_at_95(200)
    counts = EdgeCounts.at(edges)
    found = collected(pairs_above(vectors, edges[-1], product=PoorProduct(), counts=counts))
    assert found == brute_force(vectors, edges[-1])
    triangle = all_cosines(vectors)[np.triu_indices(200, 1)]
    assert counts.above.tolist() == [int((triangle > np.float32(e)).sum()) for e in edges]


@pytest.mark.parametrize("threshold", [0.95, 0.951])
def test_a_poor_product_without_counts_misses_no_pair(threshold: float) -> None:
    vectors = crowded_at_95(200)
    found = collected(pairs_above(vectors, threshold, product=PoorProduct()))
    assert found == brute_force(vectors, threshold)


def test_a_dense_block_comes_in_bounded_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blind, "STRIP_VALUES", 500)
    vectors = np.repeat(clustered_rows(1, 1), 90, axis=0)
    blocks = list(pairs_above(vectors, 0.95, block=64))
    assert max(len(block) for block in blocks) <= 500
    assert len(collected(blocks)) == 90 * 89 // 2


@pytest.mark.parametrize("dense", [False, True])
def test_memory_does_not_grow_with_all_pairs(dense: bool) -> None:
    n = 6000
    drawn = np.random.default_rng(0).standard_normal((n, 8)) + (30 if dense else 0)
    vectors = (drawn / np.linalg.norm(drawn, axis=1, keepdims=True)).astype(np.float16)
    tracemalloc.start()
    try:
        held = sum(len(part) for part in pairs_above(vectors, 0.97, block=512))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert (held > n * (n - 1) // 4) == dense
    assert peak < n * n  # bytes: a quarter of the float32 product


def test_reads_a_memmap(tmp_path: Path) -> None:
    vectors = clustered_rows(1, 80)
    np.save(tmp_path / "clip.npy", vectors)
    mapped = np.load(tmp_path / "clip.npy", mmap_mode="r")
    assert collected(pairs_above(mapped, 0.9, block=16)) == brute_force(vectors, 0.9)


@pytest.mark.parametrize("n", [0, 1])
def test_no_pairs_without_two_rows(n: int) -> None:
    assert list(pairs_above(clustered_rows(1, 5)[:n], -1.0)) == []


def test_bad_arguments_are_refused_at_the_call() -> None:
    vectors = clustered_rows(1, 10)
    with pytest.raises(ValueError, match="block is 0"):
        pairs_above(vectors, 0.9, block=0)
    with pytest.raises(ValueError, match="float32"):
        pairs_above(vectors.astype(np.float32), 0.9)
    with pytest.raises(ValueError, match="is_new is int64"):
        pairs_above(vectors, 0.9, is_new=np.arange(10))
    with pytest.raises(ValueError, match="of 10 rows"):
        pairs_above(vectors, 0.9, is_new=np.ones(9, np.bool_))


def test_blind_is_strict_on_both_sides() -> None:
    clip = np.array([0.96, 0.95, 0.96, 0.94, 0.97], np.float32)
    dino = np.array([0.59, 0.59, 0.60, 0.10, -0.2], np.float32)
    assert is_blind(clip, dino, 0.95, 0.6).tolist() == [True, False, False, False, True]
