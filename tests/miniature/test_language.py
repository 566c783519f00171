from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from miniature.language import (
    ABOVE,
    COUNTABLE,
    KINDS,
    LEFT_OF,
    NUMBERS,
    WORDINGS,
    Counted,
    Empty,
    Present,
    Question,
    Related,
    Seen,
    answer,
    draw_question,
    holds,
    names_told,
    parse,
    prompt,
    question_of,
    say,
    things_told,
    tokens,
    words,
)
from miniature.scenes import Thing, make_scenes
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


@pytest.mark.parametrize("kind", KINDS)
def test_answers_are_true_and_prompts_are_understood(kind: str) -> None:
    draw = random.Random(kind)
    known = set(words())
    for scene in make_scenes(150, seed=7):
        question = draw_question(kind, scene.things, draw)
        text = answer(question, scene.things)
        claims = parse(text)
        assert claims
        assert all(claim.fact and holds(claim.fact, scene.things) for claim in claims)
        assert len(tokens(text)) < 80
        for wording in range(len(WORDINGS[kind])):
            asked = prompt(question, wording)
            assert question_of(asked) == question
            assert set(tokens(asked)) <= known


def test_answers_word_for_word() -> None:
    def told(kind: str, about: str = "") -> str:
        return answer(Question(kind, about), THINGS)

    assert told("describe") == (
        "A small red circle is at the top left. A large orange star is at the centre. "
        "A large red cross is at the bottom right."
    )
    assert told("thorough") == told("describe") + " There are three objects."
    assert told("relate") == (
        "A red circle is above an orange star. An orange star is above a red cross."
    )
    assert told("count", "red") == "There are two red things."
    assert told("count", "cross") == "There is one cross."
    assert told("count", "blue") == "There are no blue things."
    assert told("yes_no", "orange star") == "Yes, there is an orange star in the picture."
    assert told("yes_no", "red star") == "No, there is no red star in the picture."
    assert told("at", "centre") == "A large orange star is at the centre."
    assert told("at", "top right") == "Nothing is at the top right."


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
    assert question_of("Is there a giraffe in the picture?") is None


def test_the_told_things_and_names_come_once() -> None:
    claims = parse(
        "A large orange star is at the centre. A small red circle is at the top left. "
        "A small red circle is at the top left. Yes, there is a red cross in the picture. "
        "No, there is no blue star in the picture. A red cross is left of a green cross."
    )
    assert things_told(claims) == (CIRCLE, STAR)
    assert names_told(claims) == ("orange star", "red circle", "red cross", "green cross")


def test_half_of_the_yes_no_questions_are_about_lures() -> None:
    draw = random.Random(1)
    asked = [draw_question("yes_no", THINGS, draw, ("blue star",)).about for _ in range(200)]
    assert set(asked) == {"blue star", *(thing.name for thing in THINGS)}
    assert 60 < asked.count("blue star") < 140


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="expected one of describe"):
        prompt(Question("poem"))
    with pytest.raises(ValueError, match="expected one of describe"):
        answer(Question("poem"), THINGS)
