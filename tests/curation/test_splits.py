from __future__ import annotations

from collections import defaultdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from config.digest import digest
from config.recipe import Split
from curation.splits import SIDES, Splits, assign_splits, draw_side

SHARES = Split(train=0.8, validation=0.1, test=0.1)

names = st.integers(0, 12).map(lambda n: f"{n:02d}")
row_pairs = st.lists(st.tuples(names, st.none() | names), max_size=20)
alike = st.lists(st.tuples(names, names), max_size=6)


def images(count: int) -> list[str]:
    return [digest(number) * 2 for number in range(count)]


@given(row_pairs, alike, st.integers(0, 5))
def test_no_image_nor_its_near_duplicate_stands_on_two_sides(
    rows: list[tuple[str, str | None]], near: list[tuple[str, str]], seed: int
) -> None:
    splits = assign_splits(rows, near, Split(train=0.4, validation=0.3, test=0.3), seed)
    sides_of: dict[str, set[str]] = defaultdict(set)
    for (image, other), side in zip(rows, splits.sides, strict=True):
        sides_of[image].add(side)
        if other is not None:
            sides_of[other].add(side)
    for a, b in near:
        joined = sides_of[a] | sides_of[b]
        sides_of[a] = sides_of[b] = joined
    assert all(len(sides) <= 1 for sides in sides_of.values())


@given(row_pairs, alike, st.randoms(use_true_random=False))
def test_the_order_of_rows_and_pairs_changes_nothing(
    rows: list[tuple[str, str | None]], near: list[tuple[str, str]], random: object
) -> None:
    before = assign_splits(rows, near, SHARES, 0)
    order = list(range(len(rows)))
    random.shuffle(order)  # type: ignore[attr-defined]
    after = assign_splits([rows[i] for i in order], [(b, a) for a, b in near[::-1]], SHARES, 0)
    assert after.sides == tuple(before.sides[i] for i in order)
    assert after.reached == before.reached


@given(row_pairs, row_pairs, alike)
def test_rows_that_share_no_image_move_nothing(
    rows: list[tuple[str, str | None]],
    others: list[tuple[str, str | None]],
    near: list[tuple[str, str]],
) -> None:
    far = [(f"far{a}", b and f"far{b}") for a, b in others]
    alone = assign_splits(rows, near, SHARES, 3)
    together = assign_splits(rows + far, near, SHARES, 3)
    assert together.sides[: len(rows)] == alone.sides


def test_images_are_linked_through_images_of_no_row() -> None:
    """a ~ x ~ b and m' = c of b: one component, although x is in no row."""
    every = images(40)
    for a, b, c, x in zip(*[iter(every)] * 4, strict=True):
        splits = assign_splits([(a, None), (b, c), (c, None)], [(a, x), (x, b)], SHARES, 0)
        assert splits.components == 1
        assert len(set(splits.sides)) == 1


def test_shares_hold_in_expectation() -> None:
    """10,000 lone images; 5 standard deviations of a share of 0.1 are 0.015."""
    splits = assign_splits([(image, None) for image in images(10_000)], [], SHARES, 0)
    assert splits.components == 10_000
    assert splits.reached["train"] == pytest.approx(0.8, abs=0.02)
    assert splits.reached["validation"] == pytest.approx(0.1, abs=0.015)
    assert splits.reached["test"] == pytest.approx(0.1, abs=0.015)
    assert splits.rows == {side: splits.sides.count(side) for side in SIDES}
    assert splits.notes == ()


def test_the_seed_draws_other_sides() -> None:
    rows = [(image, None) for image in images(200)]
    assert assign_splits(rows, [], SHARES, 0).sides != assign_splits(rows, [], SHARES, 1).sides


def test_a_larger_validation_takes_from_train_alone() -> None:
    larger = Split(train=0.6, validation=0.3, test=0.1)
    for image in images(500):
        before, after = draw_side(image, SHARES, 0), draw_side(image, larger, 0)
        assert after == before or (before, after) == ("train", "validation")


def test_the_side_is_the_place_of_the_hash_among_the_shares() -> None:
    """u = the first 13 of 16^13: below 0.1 test, below 0.2 validation, else train."""
    for image in images(100):
        u = int(digest([7, image])[:13], 16) / 16**13
        expected = "test" if u < 0.1 else "validation" if u < 0.2 else "train"
        assert draw_side(image, SHARES, 7) == expected


@pytest.mark.parametrize("side", SIDES)
def test_a_share_of_one_takes_all(side: str) -> None:
    shares = Split(**{**dict.fromkeys(SIDES, 0.0), side: 1.0})
    assert {draw_side(image, shares, 0) for image in images(50)} == {side}


def test_a_component_larger_than_its_share_is_told() -> None:
    """Five of eight rows are one component; it lands where its share is 50 %."""
    every = images(8)
    rows: list[tuple[str, str | None]] = [(every[0], other) for other in every[:5]]
    rows += [(image, None) for image in every[5:]]
    splits = assign_splits(rows, [], Split(train=0.5, validation=0.5, test=0.0), 0)
    assert splits.largest == 5 / 8
    holder = splits.sides[0]
    assert [note for note in splits.notes if note.startswith(holder)] == [
        f"{holder} was to get 50.0% of the rows, but holds one component of linked images with "
        "62.5% (5 of 8 rows), which is not cut"
    ]
    assert splits.reached[holder] >= 5 / 8


def test_a_side_that_gets_nothing_is_told() -> None:
    (image,) = images(1)
    splits = assign_splits([(image, None)], [], Split(train=0.5, validation=0.25, test=0.25), 0)
    empty = [side for side in SIDES if splits.rows[side] == 0]
    assert len(empty) == 2
    for side in empty:
        assert any(n.startswith(side) and "got none" in n for n in splits.notes)


def test_no_rows() -> None:
    assert assign_splits([], [], SHARES, 0) == Splits(
        sides=(),
        rows=dict.fromkeys(SIDES, 0),
        reached=dict.fromkeys(SIDES, 0.0),
        components=0,
        largest=0.0,
        notes=(),
    )
