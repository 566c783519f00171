import pytest
import torch

from experiments.measures import drift, pair_measures, told_apart
from train.objectives.symmpo import M2_YW, M2_YW2, M_YW, M_YW2


def pairs(m_yw, m_yw2, m2_yw2, m2_yw):
    given = {M_YW: m_yw, M_YW2: m_yw2, M2_YW2: m2_yw2, M2_YW: m2_yw}
    return {which: torch.tensor(values) for which, values in given.items()}


BASE = pairs([-10.0, -20.0], [-30.0, -40.0], [-10.0, -10.0], [-20.0, -20.0])
# s:          [ 1.0,  -2.0], [  0.5, -3.0], [ 2.0,  -1.0], [-1.0,  -0.5]
POLICY = pairs([-9.0, -22.0], [-29.5, -43.0], [-8.0, -11.0], [-21.0, -20.5])


def test_measures_by_hand():
    found = pair_measures(POLICY, BASE)
    assert found["held_out_drift"] == pytest.approx(-0.5)  # (1 - 2) / 2
    assert found["apart"] == 50.0  # the second pair fails at m': -1 < -0.5
    assert found["apart_policy"] == 100.0
    # D = 0.5, 1; D' = 3, -0.5: |D - D'| = 2.5, 1.5
    assert found["gap"] == pytest.approx(2.0)


def test_the_base_has_not_moved_and_tells_no_pair_apart_by_its_own_ratio():
    found = pair_measures(BASE, BASE)
    assert found == {"held_out_drift": 0.0, "apart": 0.0, "apart_policy": 100.0, "gap": 0.0}


def test_telling_apart_needs_both_sides():
    assert told_apart(pairs([2.0], [1.0], [1.0], [2.0])) == 0.0
    assert told_apart(pairs([1.0], [2.0], [2.0], [1.0])) == 0.0
    assert told_apart(pairs([2.0], [1.0], [2.0], [1.0])) == 100.0


def test_drift_is_signed():
    assert drift({M_YW: torch.tensor([-3.0, -5.0])}, {M_YW: torch.tensor([-1.0, -1.0])}) == -3.0
