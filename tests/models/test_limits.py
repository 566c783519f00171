from hypothesis import given
from hypothesis import strategies as st

from models.limits import BURST_S, Pacer, backoff, eased


def start(pacer, amount, now):
    """When an amount starts that is ready at `now`."""
    now += pacer.wait(now)
    pacer.take(amount, now)
    return now


def test_sixty_a_minute_is_one_a_second_after_the_burst():
    pacer, now, starts = Pacer(60), 100.0, []
    for _ in range(4):
        now = start(pacer, 1, now)
        starts.append(now)
    # at 100 s: one second's burst lets two go at once, then one a second
    assert starts == [100.0, 100.0, 101.0, 102.0]


def test_an_estimate_that_was_too_high_is_given_back():
    pacer = Pacer(6000)  # 100 a second
    assert start(pacer, 500, 0.0) == 0.0
    pacer.correct(-400)
    assert pacer.wait(0.0) == 0.0


def test_a_new_limit_holds_for_what_still_waits():
    pacer = Pacer(60)
    now = start(pacer, 1, start(pacer, 1, start(pacer, 1, 0.0)))
    pacer.set(30)
    now = start(pacer, 1, now)
    assert start(pacer, 1, now) - now == 2.0


@given(
    st.lists(
        st.tuples(st.floats(0, 5), st.integers(1, 50), st.integers(60, 6000)),
        min_size=1,
        max_size=200,
    ),
)
def test_no_minute_holds_more_than_the_limit_and_the_burst(steps):
    most = max(limit for _, _, limit in steps)
    pacer, now, sent = Pacer(most), 0.0, []
    for pause, amount, limit in steps:
        now = start(pacer, amount, now + pause)
        sent.append((now, amount))
        pacer.set(limit)
    largest = max(amount for _, amount in sent)
    for begin, _ in sent:
        inside = sum(amount for at, amount in sent if begin <= at < begin + 60)
        assert inside <= most * (1 + BURST_S / 60) + largest + 1e-6


@given(st.integers(1, 4096), st.integers(1, 4096), st.integers(0, 100))
def test_a_long_queue_shrinks_the_calls_to_one_and_a_short_one_brings_them_back(now, most, limit):
    now = min(now, most)
    for _ in range(40):
        shrunk = eased(now, most, limit + 1, limit)
        assert 1 <= shrunk <= now
        now = shrunk
    assert now == 1
    for _ in range(20):
        now = eased(now, most, limit / 2, limit)
        assert now <= most
    assert now == most


def test_between_long_and_short_the_calls_stay_as_they_are():
    assert eased(20, 64, 12, 16) == 20


def test_back_off_doubles_up_to_its_cap_under_full_jitter():
    assert [backoff(n, 1.0) for n in (1, 2, 3, 10)] == [0.25, 0.5, 1.0, 30.0]
    assert backoff(5, 0.0) == 0.0
