from __future__ import annotations

import random

import pytest

from miniature.language import holds, parse, tokens
from miniature.questions import (
    KINDS,
    WORDINGS,
    Question,
    answer,
    draw_question,
    prompt,
    question_of,
    words,
)
from miniature.scenes import Thing, make_scenes

THINGS = (
    Thing("red", "circle", "small", 0),
    Thing("orange", "star", "large", 4),
    Thing("red", "cross", "large", 8),
)


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


def test_a_prompt_of_another_world_is_no_question() -> None:
    assert question_of("Is there a giraffe in the picture?") is None


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
