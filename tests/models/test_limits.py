from hypothesis import given
from hypothesis import strategies as st

from models.limits import BURST_S, Pacer, backoff


def test_sixty_a_minute_is_one_a_second_after_the_burst():
    pacer = Pacer(60)
    # at 100 s: one second's burst lets two go at once, then one a second
    assert [pacer.reserve(1, 100.0) for _ in range(4)] == [0.0, 0.0, 1.0, 2.0]


def test_an_estimate_that_was_too_high_is_given_back():
    pacer = Pacer(6000)  # 100 a second
    assert pacer.reserve(500, 0.0) == 0.0
    pacer.correct(-400)
    assert pacer.reserve(1, 0.0) == 0.0


@given(
    st.lists(st.tuples(st.floats(0, 5), st.integers(1, 50)), min_size=1, max_size=200),
    st.integers(60, 6000),
)
def test_no_minute_holds_more_than_the_limit_and_the_burst(steps, limit):
    pacer, now, sent = Pacer(limit), 0.0, []
    for pause, amount in steps:
        now += pause
        sent.append((now + pacer.reserve(amount, now), amount))
    largest = max(amount for _, amount in sent)
    for start, _ in sent:
        inside = sum(amount for at, amount in sent if start <= at < start + 60)
        assert inside <= limit * (1 + BURST_S / 60) + largest + 1e-6


def test_back_off_doubles_up_to_its_cap_under_full_jitter():
    assert [backoff(n, 1.0) for n in (1, 2, 3, 10)] == [0.25, 0.5, 1.0, 30.0]
    assert backoff(5, 0.0) == 0.0
