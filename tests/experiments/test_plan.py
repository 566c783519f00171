import pytest

from experiments.plan import ABLATIONS, ARMS, METHODS, Job, chosen_rate, grid
from train import objectives


def test_every_arm_is_a_loss_with_parameters_it_has():
    assert len(ARMS) == 10
    for arm in ARMS.values():
        objectives.get(arm.objective).parameters(arm.parameters)


def test_the_strong_margin_is_a_hundred_times_the_papers():
    strong = next(arm for arm in ABLATIONS if arm.parameters)
    assert strong.parameters["gamma"] == pytest.approx(
        100 * objectives.get("symmpo").defaults["gamma"]
    )


def test_the_grid_is_whole_and_finishes_one_seed_before_the_next():
    jobs = grid(METHODS, (1e-5, 1e-4), range(3))
    assert len(set(jobs)) == len(jobs) == len(METHODS) * 2 * 3
    assert [job.seed for job in jobs] == sorted(job.seed for job in jobs)


def test_names_of_runs_are_all_different():
    jobs = grid(ARMS.values(), (3e-5, 1e-4), range(2))
    assert len({job.name for job in jobs}) == len(jobs)
    assert all(set(job.name) <= set("abcdefghijklmnopqrstuvwxyz0123456789-") for job in jobs)


def test_the_rate_is_chosen_by_the_mean_over_seeds():
    scores = {
        Job("DPO", 1e-5, 0): {"exact": 60.0, "yes_no": 70.0},
        Job("DPO", 1e-5, 1): {"exact": 80.0, "yes_no": 70.0},
        Job("DPO", 1e-4, 0): {"exact": 90.0, "yes_no": 70.0},
        Job("DPO", 1e-4, 1): {"exact": 40.0, "yes_no": 70.0},
        Job("mDPO", 1e-4, 0): {"exact": 99.0, "yes_no": 40.0},
    }
    assert chosen_rate(scores, "DPO") == 1e-5
    assert chosen_rate(scores, "mDPO") == 1e-4


def test_a_rate_that_ruins_the_questions_is_not_chosen():
    scores = {
        Job("DPO", 1e-4, 0): {"exact": 90.0, "yes_no": 80.0},
        Job("DPO", 1e-3, 0): {"exact": 95.0, "yes_no": 60.0},
    }
    assert chosen_rate(scores, "DPO") == 1e-4


def test_of_equal_rates_the_lower_is_chosen():
    values = {"exact": 50.0, "yes_no": 50.0}
    scores = {Job("DPO", rate, 0): values for rate in (3e-4, 1e-5, 1e-4)}
    assert chosen_rate(scores, "DPO") == 1e-5


def test_an_arm_without_runs_is_named():
    with pytest.raises(ValueError, match=r"no run of arm 'DPO'; there are \['mDPO'\]"):
        chosen_rate({Job("mDPO", 1e-4, 0): {}}, "DPO")
