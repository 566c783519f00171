from __future__ import annotations

import pytest

from miniature.questions import Question, answer, prompt
from miniature.scenes import Scene, Thing, make_scenes
from miniature.scoring import hallucinated, is_right, score

SCENE = Scene((Thing("red", "circle", "small", 0), Thing("blue", "square", "large", 4)), seed=1)
CIRCLE = "A small red circle is at the top left."
SQUARE = "A large blue square is at the centre."
ABSENT = "A small green star is at the bottom left."


def test_true_descriptions_score_full_marks() -> None:
    scenes = make_scenes(50, seed=3)
    found = score([answer(Question("thorough"), scene.things) for scene in scenes], scenes)
    assert (found.chair_s, found.chair_i, found.coverage, found.exact) == (0, 0, 100, 100)
    assert found.yes_no is None
    assert found.others is None


def test_an_absent_object_counts_by_text_and_by_mention() -> None:
    found = score([f"{CIRCLE} {SQUARE} {ABSENT}", f"{CIRCLE} {SQUARE}"], [SCENE, SCENE])
    assert found.chair_s == 50
    assert found.chair_i == pytest.approx(100 / 5)
    assert found.coverage == 100
    assert found.exact == 50
    assert hallucinated(f"{CIRCLE} {ABSENT}", SCENE) == ("green star",)


@pytest.mark.parametrize(
    "text",
    [
        CIRCLE,
        f"{CIRCLE} {SQUARE} {SQUARE}",
        f"A large red circle is at the top left. {SQUARE}",
        f"A small red circle is at the top right. {SQUARE}",
        f"{CIRCLE} {SQUARE} There are three objects.",
        f"{CIRCLE} {SQUARE} The mood is calm.",
    ],
)
def test_what_lacks_repeats_or_errs_is_not_exact(text: str) -> None:
    found = score([text], [SCENE])
    assert found.exact == 0
    assert found.chair_s == 0
    assert found.coverage == (50 if text == CIRCLE else 100)


def test_questions_count_apart_from_descriptions() -> None:
    there = Question("yes_no", "red circle")
    number = Question("count", "blue")
    prompts = [prompt(there), prompt(there, 1), prompt(number), "Describe this picture in detail."]
    texts = [
        "Yes, there is a red circle in the picture.",
        "No, there is no red circle in the picture.",
        "There is one blue thing.",
        f"{SQUARE} {CIRCLE}",
    ]
    found = score(texts, [SCENE] * 4, prompts)
    assert (found.yes_no, found.others, found.exact) == (50, 100, 100)
    assert not is_right("", there, SCENE)


def test_an_empty_text_covers_nothing() -> None:
    found = score([""], [SCENE])
    assert (found.chair_s, found.chair_i, found.coverage, found.exact) == (0, None, 0, 0)


def test_texts_without_scenes_are_refused() -> None:
    with pytest.raises(ValueError, match="2 texts, 1 scenes and no prompts"):
        score(["", ""], [SCENE])
