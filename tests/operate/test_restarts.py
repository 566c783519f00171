import pytest

from operate.restarts import RestartPolicy


def test_the_wait_doubles_up_to_its_longest():
    policy = RestartPolicy(first_s=1, longest_s=5, most=10, window_s=100)
    deaths, waits = [], []
    for time in range(5):
        deaths.append(float(time))
        waits.append(policy.delay(deaths, float(time)))
    assert waits == [1, 2, 4, 5, 5]


def test_more_deaths_than_allowed_in_the_window_end_it():
    policy = RestartPolicy(most=3, window_s=60)
    assert policy.delay([0, 10, 20], 20) is not None
    assert policy.delay([0, 10, 20, 30], 30) is None


@pytest.mark.parametrize("now", [100.0, 1000.0])
def test_what_lies_before_the_window_is_forgotten(now):
    policy = RestartPolicy(first_s=1, most=3, window_s=60)
    assert policy.delay([0, 10, 20, 30, now], now) == 1
