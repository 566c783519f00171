from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from miniature.language import (
    ABOVE,
    COUNTABLE,
    LEFT_OF,
    NUMBERS,
    Counted,
    Empty,
    Present,
    Related,
    Seen,
    holds,
    names_told,
    parse,
    say,
    things_told,
    tokens,
)
from miniature.questions import words
from miniature.scenes import Thing
from miniature.vocabulary import COLOURS, PLACES, SCENE_OBJECTS, SHAPES, SIZES

CIRCLE = Thing("red", "circle", "small", 0)
STAR = Thing("orange", "star", "large", 4)
CROSS = Thing("red", "cross", "large", 8)
THINGS = (CIRCLE, STAR, CROSS)

things = st.builds(
    Thing,
    st.sampled_from(COLOURS),
    st.sampled_from(SHAPES),
    st.sampled_from(SIZES),
    st.integers(0, len(PLACES) - 1),
)
names = st.sampled_from(SCENE_OBJECTS)
any_fact = st.one_of(
    st.builds(Seen, things),
    st.builds(Empty, st.integers(0, len(PLACES) - 1)),
    st.builds(Present, names, st.booleans()),
    st.builds(Counted, st.sampled_from(COUNTABLE), st.integers(0, len(NUMBERS) - 1)),
    st.builds(Related, names, st.sampled_from((LEFT_OF, ABOVE)), names),
)


@given(st.lists(any_fact))
def test_what_is_said_is_read_back(facts) -> None:
    """Sentence by sentence, in words of the vocabulary only."""
    text = " ".join(map(say, facts))
    assert [claim.fact for claim in parse(text)] == facts
    assert " ".join(claim.sentence for claim in parse(text)) == text
    assert set(tokens(text)) <= set(words())


@pytest.mark.parametrize(
    ("sentence", "true"),
    [
        ("A small red circle is at the top left.", True),
        ("A large red circle is at the top left.", False),
        ("A small red circle is at the top middle.", False),
        ("Nothing is at the top middle.", True),
        ("Nothing is at the centre.", False),
        ("There is a red cross in the picture.", True),
        ("There is also a blue cross in the picture.", False),
        ("There is no blue cross in the picture.", True),
        ("There are three objects.", True),
        ("There is one red thing.", False),
        ("A red circle is left of a red cross.", True),
        ("A red cross is left of a red circle.", False),
        ("A red circle is above a red cross.", True),
        ("A blue circle is above a red cross.", False),
    ],
)
def test_a_sentence_is_judged(sentence: str, true: bool) -> None:
    (claim,) = parse(sentence)
    assert claim.fact is not None
    assert holds(claim.fact, THINGS) is true


def test_what_is_not_of_the_language_states_nothing() -> None:
    text = "The mood is calm. A small red circle is at the top left. A red circle is at the top"
    assert [claim.fact for claim in parse(text)] == [None, Seen(CIRCLE), None]
    assert parse("  ") == []


def test_the_told_things_and_names_come_once() -> None:
    claims = parse(
        "A large orange star is at the centre. A small red circle is at the top left. "
        "A small red circle is at the top left. Yes, there is a red cross in the picture. "
        "No, there is no blue star in the picture. A red cross is left of a green cross."
    )
    assert things_told(claims) == (CIRCLE, STAR)
    assert names_told(claims) == ("orange star", "red circle", "red cross", "green cross")
