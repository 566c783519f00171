import math

import pytest

from experiments.statistics import Estimate, estimate, paired


def test_the_interval_of_three_values_by_hand():
    # mean 2, variance 1, standard error 1 / sqrt 3, t(2) = 4.303
    found = estimate([1.0, 2.0, 3.0])
    assert found.mean == 2.0
    assert found.half == pytest.approx(4.303 / math.sqrt(3), abs=1e-9)
    assert not found.excludes_zero  # 2 - 2.484 < 0


def test_a_fourth_value_narrows_it():
    # 1, 2, 3, 2: mean 2, variance 2/3, standard error sqrt(1/6), t(3) = 3.182: half 1.299
    found = estimate([1.0, 2.0, 3.0, 2.0])
    assert found.half == pytest.approx(1.299, abs=1e-3)
    assert found.excludes_zero


def test_one_run_has_no_interval_and_excludes_nothing():
    assert estimate([5.0]) == Estimate(5.0, None, 1)
    assert not estimate([5.0]).excludes_zero


def test_equal_values_have_an_interval_of_nothing():
    assert estimate([-2.0, -2.0]) == Estimate(-2.0, 0.0, 2)
    assert estimate([-2.0, -2.0]).excludes_zero
    assert not estimate([0.0, 0.0]).excludes_zero


@pytest.mark.parametrize("values", [[], [1.0] * 22, [1.0, math.nan], [math.inf, 1.0]])
def test_what_has_no_estimate_is_refused(values):
    with pytest.raises(ValueError, match=r"expected 1 to 21|not finite"):
        estimate(values)


def test_differences_are_paired_by_seed():
    # the seeds differ by far more than the arms: unpaired, nothing could be seen
    ours, theirs = {0: 11.0, 1: 21.0, 2: 31.0, 9: 0.0}, {2: 29.0, 1: 19.5, 0: 10.5}
    found = paired(ours, theirs)  # differences 0.5, 1.5, 2.0: mean 4/3
    assert found.n == 3
    assert found.mean == pytest.approx(4 / 3)
    # variance ((5/6)^2 + (1/6)^2 + (2/3)^2) / 2 = 7/12, so half = 4.303 sqrt(7/36)
    assert found.half == pytest.approx(4.303 * math.sqrt(7 / 36))


def test_nothing_is_paired_without_a_shared_seed():
    assert paired({0: 1.0}, {1: 1.0}) is None
