from hypothesis import given
from hypothesis import strategies as st

from models.shares import Limits, share_of

RATES = st.none() | st.floats(0.1, 1e6)
LIMITS = st.builds(Limits, st.integers(1, 200), RATES, RATES)
NAMES = st.text("abcdef", min_size=1, max_size=4)
MEMBERS = st.dictionaries(NAMES, LIMITS, min_size=1, max_size=12)


def lowest(values):
    given_ = [value for value in values if value is not None]
    return min(given_, default=None)


def test_seven_calls_among_three():
    members = dict.fromkeys("bca", Limits(7, 60.0, None))
    shares = [share_of(name, members) for name in "abc"]
    assert [share.concurrency for share in shares] == [3, 2, 2]
    assert {(s.requests_per_minute, s.tokens_per_minute) for s in shares} == {(20.0, None)}


@given(MEMBERS)
def test_shares_add_up_to_the_limit_and_nobody_starves_while_there_are_slots(members):
    shares = [share_of(name, members) for name in members]
    slots = [share.concurrency for share in shares]
    limit = min(given_.concurrency for given_ in members.values())
    assert sum(slots) == limit
    assert max(slots) - min(slots) <= 1
    assert min(slots) >= 1 or len(members) > limit


@given(MEMBERS, st.data())
def test_members_that_disagree_about_who_else_is_there_keep_to_the_limit(members, data):
    """Each sees all that send, and any others besides."""
    names = sorted(members)
    sending = data.draw(st.lists(st.sampled_from(names), min_size=1, unique=True))
    shares = []
    for me in sending:
        also = data.draw(st.lists(st.sampled_from(names), unique=True))
        view = {name: members[name] for name in {*sending, *also}}
        shares.append(share_of(me, view))
    limits = [members[name] for name in sending]
    assert sum(share.concurrency for share in shares) <= min(x.concurrency for x in limits)
    for rate in ("requests_per_minute", "tokens_per_minute"):
        limit = lowest([getattr(x, rate) for x in limits])
        if limit is not None:
            total = sum(getattr(share, rate) for share in shares)
            assert total <= limit * (1 + 1e-9)
