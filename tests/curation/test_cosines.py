"""Cosines are exact: worked by hand, held against rational arithmetic, free of order and block."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curation import cosines
from curation.cosines import (
    BIN_EDGES,
    EdgeCounts,
    Histogram,
    JointCounts,
    Yield,
    check_rows,
    exact_cosines,
    exact_cosines_at,
    exact_product,
    neighbouring,
    pair_cosines,
    sample_pairs,
    sampled_histogram,
    yields,
)


def unit_rows(seed: int, n: int, dimension: int) -> Any:
    rows = np.random.default_rng(seed).standard_normal((n, dimension))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float16)


def rational_cosine(left: Any, right: Any) -> np.float32:
    total = sum(Fraction(float(x)) * Fraction(float(y)) for x, y in zip(left, right, strict=True))
    return np.float32(float(total))


def test_worked_by_hand() -> None:
    left = np.array([[0.5, 0.5, 0.5, 0.5], [1, 0, 0, 0]], np.float16)
    right = np.array([[0.5, 0.5, 0.5, -0.5], [-0.5, 0.5, 0.5, 0.5]], np.float16)
    assert exact_cosines(left, right).tolist() == [0.5, -0.5]


@given(st.integers(0, 10**6), st.sampled_from([1, 2, 33, 300]))
@settings(max_examples=25, deadline=None)
def test_equals_rational_arithmetic(seed: int, dimension: int) -> None:
    left, right = unit_rows(seed, 3, dimension), unit_rows(seed + 1, 3, dimension)
    expected = [rational_cosine(a, b) for a, b in zip(left, right, strict=True)]
    assert exact_cosines(left, right).tolist() == expected


def test_is_exact_where_adding_up_in_float32_is_not() -> None:
    rows = unit_rows(5, 64, 768)
    others = unit_rows(6, 64, 768)
    naive = np.cumsum(rows.astype(np.float32) * others.astype(np.float32), axis=1)[:, -1]
    exact = exact_cosines(rows, others)
    assert (naive != exact).any()
    assert exact[0] == rational_cosine(rows[0], others[0])


def test_smallest_and_subnormal_values_are_not_lost() -> None:
    tiny = 2.0**-24
    row = np.array([[1.0, tiny]], np.float16)
    assert exact_cosines(row, np.array([[0.0, tiny]], np.float16)).tolist() == [2.0**-48]


@given(st.integers(0, 10**6), st.integers(1, 400))
@settings(max_examples=25, deadline=None)
def test_neither_order_nor_chunk_nor_rectangle_changes_a_bit(seed: int, chunk: int) -> None:
    rows, others = unit_rows(seed, 20, 96), unit_rows(seed + 1, 20, 96)
    expected = exact_cosines(rows, others)
    columns = np.random.default_rng(seed).permutation(96)
    assert np.array_equal(exact_cosines(others[:, columns], rows[:, columns]), expected)
    assert np.array_equal(np.diagonal(exact_product(rows, others)), expected)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cosines, "CHUNK_VALUES", chunk)
        assert np.array_equal(exact_cosines(rows, others), expected)


@pytest.mark.parametrize("number", [0, 1, 3, 2000])
def test_few_and_many_pairs_of_a_rectangle_agree(number: int) -> None:
    rows, cols = unit_rows(1, 30, 40), unit_rows(2, 70, 40)
    drawn = np.random.default_rng(3)
    i = drawn.integers(4, 30, number)
    j = drawn.integers(0, 70, number)
    assert np.array_equal(exact_cosines_at(rows, cols, i, j), exact_cosines(rows[i], cols[j]))


def test_dense_and_gathered_pairs_take_different_ways(monkeypatch: pytest.MonkeyPatch) -> None:
    rows, cols = unit_rows(1, 40, 8), unit_rows(2, 400, 8)
    used: list[int] = []
    monkeypatch.setattr(
        cosines, "exact_product", lambda a, b: used.append(len(a)) or exact_product(a, b)
    )
    exact_cosines_at(rows, cols, np.array([0, 39]), np.array([0, 1]))
    assert used == []
    exact_cosines_at(rows, cols, np.repeat([3, 5], 400), np.tile(np.arange(400), 2))
    assert used == [3]  # rows 3 to 5


def test_pair_cosines_gathers_by_index() -> None:
    rows = unit_rows(1, 10, 16)
    a, b = np.array([0, 4, 9]), np.array([9, 4, 2])
    assert np.array_equal(pair_cosines(rows, a, b), exact_cosines(rows[a], rows[b]))


def test_rows_of_other_shapes_and_types_are_refused() -> None:
    rows = unit_rows(1, 3, 4)
    with pytest.raises(ValueError, match="alike"):
        exact_cosines(rows, rows[:2])
    with pytest.raises(ValueError, match="float32"):
        exact_cosines(rows, rows.astype(np.float32))


@pytest.mark.parametrize(
    ("value", "norm"), [(0.0, "norm 0"), (np.nan, "norm nan"), (2.0, "norm 2")]
)
def test_a_bad_row_is_named(monkeypatch: pytest.MonkeyPatch, value: float, norm: str) -> None:
    monkeypatch.setattr(cosines, "CHUNK_VALUES", 12)  # three rows at once: row 7 is in chunk 3
    rows = unit_rows(1, 9, 4)
    check_rows(rows)
    rows[7] = [value, 0, 0, 0]
    with pytest.raises(ValueError, match=f"row 7 .*{norm}"):
        check_rows(rows)


def test_vectors_must_be_float16_rows() -> None:
    with pytest.raises(ValueError, match="float32"):
        check_rows(unit_rows(1, 3, 4).astype(np.float32))
    with pytest.raises(ValueError, match=r"\(4,\)"):
        check_rows(unit_rows(1, 1, 4)[0])


def test_histogram_bins() -> None:
    histogram = Histogram.empty()
    histogram.add(np.array([-1.0, -0.99, 0.0, 0.95, 0.96, 1.0, 1.0005, -1.0005], np.float32))
    filled = {int(k): int(histogram.counts[k]) for k in np.flatnonzero(histogram.counts)}
    # -1, -.99 and the rounded -1.0005; 0; .95 in [.94, .96); .96 in [.96, .98); 1 and 1.0005
    assert filled == {0: 3, 50: 1, 97: 1, 98: 1, 99: 2}


@pytest.mark.parametrize("place", range(100))
def test_every_edge_opens_its_own_bin(place: int) -> None:
    histogram = Histogram.empty()
    histogram.add(BIN_EDGES[place : place + 1])
    assert histogram.counts[place] == 1


@given(st.lists(st.floats(-1, 1, width=32), max_size=60), st.integers(0, 60))
@settings(deadline=None)
def test_histograms_of_parts_add_up(values: list[float], cut: int) -> None:
    whole, first, second = Histogram.empty(), Histogram.empty(), Histogram.empty()
    array = np.array(values, np.float32)
    whole.add(array)
    first.add(array[:cut])
    second.add(array[cut:])
    assert np.array_equal((first + second).counts, whole.counts)
    assert whole.counts.sum() == len(values)


@pytest.mark.parametrize("value", [np.nan, 1.5, -np.inf])
def test_what_is_no_cosine_is_not_counted(value: float) -> None:
    with pytest.raises(ValueError, match="no cosine"):
        Histogram.empty().add(np.array([0.5, value], np.float32))


def test_all_pairs_where_they_are_few() -> None:
    a, b = sample_pairs(4, 100, seed=1)
    assert list(zip(a.tolist(), b.tolist(), strict=True)) == [
        (0, 1), (0, 2), (1, 2), (0, 3), (1, 3), (2, 3)
    ]  # fmt: skip
    assert [len(x) for x in sample_pairs(1, 100, seed=1)] == [0, 0]


@given(st.integers(2, 20_000_000), st.integers(1, 500), st.integers(0, 9))
@settings(deadline=None)
def test_sampled_pairs_are_distinct_pairs_of_images(n: int, limit: int, seed: int) -> None:
    a, b = sample_pairs(n, limit, seed)
    assert len(a) == min(limit, n * (n - 1) // 2)
    assert (a >= 0).all()
    assert (a < b).all()
    assert (b < n).all()
    assert len(set(zip(a.tolist(), b.tolist(), strict=True))) == len(a)


def test_a_sample_follows_from_its_seed_and_is_spread_evenly() -> None:
    a, b = sample_pairs(1000, 4995, seed=3)
    again = sample_pairs(1000, 4995, seed=3)
    assert np.array_equal(a, again[0])
    assert np.array_equal(b, again[1])
    assert not np.array_equal(a, sample_pairs(1000, 4995, seed=4)[0])
    number = b * (b - 1) // 2 + a
    assert np.array_equal(number // 100, np.arange(4995))  # one in each run of 100


def test_sampled_histogram_of_all_pairs() -> None:
    rows = unit_rows(1, 12, 8)
    product = rows.astype(np.float64) @ rows.astype(np.float64).T
    expected = Histogram.empty()
    expected.add(product[np.triu_indices(12, 1)].astype(np.float32))
    assert np.array_equal(sampled_histogram(rows).counts, expected.counts)
    assert sampled_histogram(rows, limit=20).counts.sum() == 20


def test_neighbouring_thresholds_stay_cosines() -> None:
    assert neighbouring(0.95, cosines.CLIP_STEPS) == (0.91, 0.93, 0.94, 0.95, 0.96, 0.97)
    assert neighbouring(0.99, cosines.CLIP_STEPS) == (0.95, 0.97, 0.98, 0.99, 1.0)
    assert neighbouring(0.6, cosines.DINO_STEPS) == (0.4, 0.5, 0.55, 0.6, 0.65, 0.7, 0.8)


def test_a_cosine_equal_to_the_threshold_is_not_above_it() -> None:
    # The float32 next to .6 is above .6, the one next to .95 below .95: neither side may tell.
    counts = EdgeCounts.at((0.6, 0.95))
    counts.add(np.array([0.95, np.nextafter(np.float32(0.95), np.float32(1)), 0.6], np.float32))
    assert counts.above.tolist() == [2, 1]
    joint = JointCounts.around(0.95, 0.6)
    joint.add(np.array([0.99, 0.99], np.float32), np.array([0.6, 0.55], np.float32))
    assert joint.passing[0].tolist() == [0, 0, 0, 1, 2, 2, 2]


def test_yields_worked_by_hand() -> None:
    clip = EdgeCounts.around(0.95)
    clip.add(np.array([0.92, 0.935, 0.945, 0.955, 0.965, 0.98], np.float32))
    joint = JointCounts.around(0.95, 0.6)
    joint.add(np.array([0.955, 0.965], np.float32), np.array([0.45, 0.58], np.float32))
    joint.add(np.array([0.98], np.float32), np.array([0.75], np.float32))
    table = {(row.clip_min, row.dino_max): row.pairs for row in yields(clip, joint)}
    assert [table[edge, None] for edge in (0.91, 0.93, 0.94, 0.95, 0.96, 0.97)] == [
        6,
        5,
        4,
        3,
        2,
        1,
    ]
    dino = (0.4, 0.5, 0.55, 0.6, 0.65, 0.7, 0.8)
    assert [table[0.95, d] for d in dino] == [0, 1, 1, 2, 2, 2, 3]
    assert [table[0.96, d] for d in dino] == [0, 0, 0, 1, 1, 1, 2]
    assert [table[0.97, d] for d in dino] == [0, 0, 0, 0, 0, 0, 1]
    assert {table[edge, d] for edge in (0.91, 0.93, 0.94) for d in dino} == {None}
    assert len(table) == 6 * 8


def test_yields_by_clip_alone() -> None:
    clip = EdgeCounts.at((0.9, 0.95))
    clip.add(np.array([0.93], np.float32))
    assert yields(clip) == [Yield(0.9, None, 1), Yield(0.95, None, 0)]


def test_counts_of_parts_add_up() -> None:
    one, two = EdgeCounts.around(0.95), EdgeCounts.around(0.95)
    one.add(np.array([0.955], np.float32))
    two.add(np.array([0.92, 0.99], np.float32))
    assert (one + two).above.tolist() == [3, 2, 2, 2, 1, 1]
    joint = JointCounts.around(0.95, 0.6)
    joint.add(np.array([0.955], np.float32), np.array([0.1], np.float32))
    assert np.array_equal((joint + joint).passing, 2 * joint.passing)
    assert joint.passing.sum() == 7


def test_counts_that_cannot_be_right_are_refused() -> None:
    with pytest.raises(ValueError, match="cannot be added"):
        EdgeCounts.around(0.95) + EdgeCounts.around(0.9)
    with pytest.raises(ValueError, match="ascending"):
        EdgeCounts.at((0.95, 0.9))
    joint = JointCounts.around(0.95, 0.6)
    with pytest.raises(ValueError, match="as many"):
        joint.add(np.zeros(2, np.float32), np.zeros(3, np.float32))
    with pytest.raises(ValueError, match="no cosine"):
        joint.add(np.zeros(1, np.float32), np.full(1, np.nan, np.float32))
