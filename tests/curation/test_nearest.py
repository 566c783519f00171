"""The nearest other image, against a plain float64 product of everything with everything."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curation import blind
from curation.blind import margin
from curation.nearest import TOP_K, Nearest, flat_index, nearest


def crowded_rows(seed: int, n: int, dimension: int = 16, clusters: int = 4) -> Any:
    """Clusters with exact and near duplicates; a cluster may outnumber the top k."""
    drawn = np.random.default_rng(seed)
    centres = drawn.standard_normal((clusters, dimension))
    spread = drawn.choice([0.0, 0.002, 0.3], n)[:, None]
    rows = centres[drawn.integers(0, clusters, n)] + spread * drawn.standard_normal((n, dimension))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float16)


def all_products(vectors: Any) -> Any:
    wide = vectors.astype(np.float64)
    return (wide @ wide.T).astype(np.float32)


def nearest_by_force(vectors: Any, queries: Any, ceiling: float) -> tuple[Any, Any]:
    cosines = all_products(vectors)
    np.fill_diagonal(cosines, -2)
    cosines[cosines > np.float32(ceiling)] = -2
    found = cosines[queries].argmax(axis=1)
    best = cosines[queries, found]
    return np.where(best == -2, -1, found), np.where(best == -2, np.float32(np.nan), best)


def check(result: Nearest, vectors: Any, queries: Any, ceiling: float) -> None:
    found, best = nearest_by_force(vectors, queries, ceiling)
    assert result.neighbour.tolist() == found.tolist()
    assert np.array_equal(result.cosine, best, equal_nan=True)


@pytest.mark.parametrize("block", [1, 17, 4096])
@pytest.mark.parametrize("ceiling", [1.0, 0.999, 0.9, -0.5])
def test_equals_brute_force(block: int, ceiling: float) -> None:
    vectors = crowded_rows(1, 200)
    queries = np.random.default_rng(2).permutation(200)[:120]
    result = nearest(vectors, queries, ceiling=ceiling, block=block)
    check(result, vectors, queries, ceiling)
    assert result.scanned > 0


def test_spread_out_vectors_need_no_scan() -> None:
    drawn = np.random.default_rng(0).standard_normal((500, 768))
    vectors = (drawn / np.linalg.norm(drawn, axis=1, keepdims=True)).astype(np.float16)
    queries = np.arange(500)
    result = nearest(vectors, queries, ceiling=0.999, block=128)
    check(result, vectors, queries, 0.999)
    assert result.scanned == 0
    assert len(result.duplicates) == 0


@given(st.integers(0, 10**6), st.integers(1, 80), st.integers(1, 50), st.integers(1, 300))
@settings(max_examples=40, deadline=None)
def test_block_strip_and_row_order_do_not_matter(seed: int, n: int, block: int, strip: int) -> None:
    vectors = crowded_rows(seed, n, clusters=2)
    order = np.random.default_rng(seed + 1).permutation(n)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blind, "STRIP_VALUES", strip)
        shuffled = nearest(vectors[order], np.arange(n), ceiling=0.999, block=block)
    check(shuffled, vectors[order], np.arange(n), 0.999)
    plain = nearest(vectors, order, ceiling=0.999)
    assert np.array_equal(plain.cosine, shuffled.cosine, equal_nan=True)


@given(st.integers(0, 10**6))
@settings(max_examples=25, deadline=None)
def test_an_index_as_wrong_as_the_margin_changes_nothing(seed: int) -> None:
    vectors = crowded_rows(seed, 120)
    drawn = np.random.default_rng(seed)

    def poor_index(queries: Any, k: int) -> tuple[Any, Any]:
        scores = queries.astype(np.float64) @ vectors.astype(np.float64).T
        scores += drawn.uniform(-1, 1, scores.shape) * margin(vectors.shape[1])
        rows = np.argsort(-scores, axis=1)[:, :k]
        return np.take_along_axis(scores, rows, 1).astype(np.float32), rows

    queries = np.arange(120)
    for ceiling in (0.999, 0.95):
        result = nearest(vectors, queries, ceiling=ceiling, search=poor_index)
        check(result, vectors, queries, ceiling)


def test_a_race_closer_than_the_margin_is_run_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a list of two others the end of the list is often a close race."""
    monkeypatch.setattr("curation.nearest.TOP_K", 2)
    drawn = np.random.default_rng(3)
    rows = 0.02 * drawn.standard_normal((300, 64))
    rows[:, 0] += 1
    vectors = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float16)
    exact = vectors.astype(np.float64) @ vectors.astype(np.float64).T
    poor = exact + drawn.uniform(-0.9, 0.9, exact.shape) * 0.5 * margin(64)
    np.fill_diagonal(poor, 2)

    def poor_index(queries: Any, k: int) -> tuple[Any, Any]:
        rows = np.argsort(-poor, axis=1)[:, :k]
        return np.take_along_axis(poor, rows, 1).astype(np.float32), rows

    result = nearest(vectors, np.arange(300), ceiling=0.999, search=poor_index)
    check(result, vectors, np.arange(300), 0.999)
    assert 0 < result.scanned < 300


def test_ties_go_to_the_smaller_row_even_outside_the_top_k() -> None:
    # 40 copies of the same neighbour: the index may list any 17 of them.
    vectors = np.zeros((42, 4), np.float16)
    vectors[:, 0] = 1
    vectors[20] = [0.5, 0.5, 0.5, 0.5]
    vectors[41] = [0, 0, 0, 1]
    result = nearest(vectors, np.array([20, 41]), ceiling=0.999)
    assert result.neighbour.tolist() == [0, 20]
    assert result.cosine.tolist() == [0.5, 0.5]
    assert result.scanned == 1  # row 41 has one neighbour ahead of the crowd


def test_a_cosine_at_the_ceiling_is_a_contrast_and_one_above_is_a_duplicate() -> None:
    vectors = np.array([[1, 0, 0, 0], [0.5, 0.5, 0.5, 0.5], [0, 0, 0, 1]], np.float16)
    at = nearest(vectors, np.array([0, 1, 2]), ceiling=0.5)
    assert at.neighbour.tolist() == [1, 0, 1]
    assert len(at.duplicates) == 0
    above = nearest(vectors, np.array([0, 1, 2]), ceiling=0.49)
    assert above.neighbour.tolist() == [2, -1, 0]
    assert np.isnan(above.cosine[1])
    assert above.duplicates.a.tolist() == [0, 1]
    assert above.duplicates.b.tolist() == [1, 2]
    assert above.duplicates.cosine.tolist() == [0.5, 0.5]


def test_duplicates_met_are_all_there_are_where_they_fit_the_top_k() -> None:
    vectors = crowded_rows(3, 60, clusters=20)
    cosines = all_products(vectors)
    expected = np.argwhere(np.triu(cosines > np.float32(0.999), 1))
    assert len(expected) > 5
    assert (cosines > np.float32(0.999)).sum(axis=1).max() <= TOP_K
    met = nearest(vectors, np.arange(60), ceiling=0.999, block=7).duplicates
    assert np.column_stack([met.a, met.b]).tolist() == expected.tolist()
    assert np.array_equal(met.cosine, cosines[met.a, met.b])


def test_one_image_and_copies_alone_have_no_neighbour() -> None:
    one = np.array([[1, 0]], np.float16)
    alone = nearest(one, np.array([0]), ceiling=0.999)
    assert alone.neighbour.tolist() == [-1]
    copies = nearest(np.repeat(one, 50, axis=0), np.arange(50), ceiling=0.999, block=8)
    assert set(copies.neighbour.tolist()) == {-1}
    assert np.isnan(copies.cosine).all()
    assert copies.scanned == 50


def test_a_query_is_not_its_own_neighbour_even_where_copies_may_be() -> None:
    copies = np.full((50, 4), 0.5, np.float16)
    result = nearest(copies, np.arange(50), ceiling=1.0, block=8)
    assert result.neighbour.tolist() == [1] + [0] * 49
    assert set(result.cosine.tolist()) == {1.0}
    assert result.scanned == 50


def test_no_queries_build_no_index() -> None:
    def refuse(queries: Any, k: int) -> Any:
        raise AssertionError("searched")

    result = nearest(crowded_rows(1, 5), np.empty(0, np.int64), ceiling=0.9, search=refuse)
    assert len(result.neighbour) == len(result.cosine) == len(result.duplicates) == 0


def test_flat_index_lists_rows_by_falling_score(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("curation.nearest.ADD_ROWS", 7)
    vectors = crowded_rows(1, 30)
    scores, rows = flat_index(vectors)(vectors[:5].astype(np.float32), 6)
    assert (np.diff(scores, axis=1) <= 0).all()
    assert np.allclose(scores, np.take_along_axis(all_products(vectors)[:5], rows, 1), atol=1e-5)
    assert np.allclose(scores[:, 0], all_products(vectors)[:5].max(axis=1), atol=1e-5)


def test_bad_arguments_are_refused() -> None:
    vectors = crowded_rows(1, 10)
    with pytest.raises(ValueError, match="rows 0 to 9"):
        nearest(vectors, np.array([0, 10]), ceiling=0.9)
    with pytest.raises(ValueError, match="queries are float64"):
        nearest(vectors, np.zeros(3), ceiling=0.9)
    with pytest.raises(ValueError, match="block is 0"):
        nearest(vectors, np.array([0]), ceiling=0.9, block=0)
    with pytest.raises(ValueError, match="float32"):
        nearest(vectors.astype(np.float32), np.array([0]), ceiling=0.9)


def test_duplicates_are_all_there_are_where_a_crowd_outnumbers_the_top_k() -> None:
    """Two tight halves of one crowd: the top k of each row lies within its own half."""
    drawn = np.random.default_rng(3)
    half = 2 * TOP_K
    crowd = np.zeros((2 * half, 16))
    crowd[:, 0] = 1
    crowd[half:, 1] = 0.01
    crowd[:, 2:] = 0.0005 * drawn.standard_normal((2 * half, 14))
    vectors = (crowd / np.linalg.norm(crowd, axis=1, keepdims=True)).astype(np.float16)
    met = nearest(vectors, np.arange(2 * half), ceiling=0.99, block=9).duplicates
    assert len(met) == half * (2 * half - 1)
    assert np.all(met.a < met.b)
