"""The plan of an epoch: every row once, whatever the number of processes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from train.batches import permutation, rows_of_step, split_step, steps_per_epoch


@given(
    tokens=st.lists(st.integers(1, 300), min_size=1, max_size=40),
    batch=st.integers(1, 12),
    processes=st.integers(1, 4),
    seed=st.integers(0, 5),
)
def test_every_row_comes_exactly_once_an_epoch(tokens, batch, processes, seed):
    seen = []
    steps = steps_per_epoch(len(tokens), batch)
    for step in range(steps):
        numbers = rows_of_step(len(tokens), batch, seed, step)
        plan = split_step(numbers, tokens, 300, processes)
        assert len({len(own) for own in plan}) == 1
        for own in plan:
            for micro in own:
                assert len(micro.rows) * max(tokens[row] for row in micro.rows) <= 300
                if not micro.filler:
                    seen += micro.rows
    assert sorted(seen) == list(range(len(tokens)))


def test_the_order_follows_the_seed_and_the_epoch():
    assert permutation(50, 1, 0) == permutation(50, 1, 0)
    assert permutation(50, 1, 0) != permutation(50, 2, 0)
    assert permutation(50, 1, 0) != permutation(50, 1, 1)
    assert rows_of_step(5, 2, 1, 2) + rows_of_step(5, 2, 1, 3) == [
        *permutation(5, 1, 0)[4:],
        *permutation(5, 1, 1)[:2],
    ]


def test_rows_of_like_length_go_together():
    tokens = [100, 10, 100, 10, 10, 100]
    (own,) = split_step(range(6), tokens, 300, 1)
    assert [set(micro.rows) for micro in own] == [{0, 2, 5}, {1, 3, 4}]


def test_processes_share_rows_before_one_of_them_idles():
    plan = split_step(range(4), [10, 10, 10, 10], 1000, 2)
    assert [[len(micro.rows) for micro in own] for own in plan] == [[2], [2]]
    plan = split_step([0], [10], 1000, 2)
    assert [own[0].filler for own in plan] == [False, True]


def test_a_row_above_the_budget_goes_alone():
    (own,) = split_step(range(2), [500, 20], 100, 1)
    assert [micro.rows for micro in own] == [(0,), (1,)]


@pytest.mark.parametrize(("rows", "batch", "steps"), [(10, 4, 3), (8, 4, 2), (1, 64, 1)])
def test_the_last_step_may_be_smaller(rows, batch, steps):
    assert steps_per_epoch(rows, batch) == steps
