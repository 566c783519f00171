"""The claim model by rule: verdicts by the caption, texts in the small language."""

from __future__ import annotations

import random

import pytest

from miniature.claims import extract, rewrite
from miniature.language import holds, parse
from miniature.making.mix import sample
from miniature.questions import KINDS, Question, answer, prompt
from miniature.scenes import make_scenes

CAPTION = "A small red circle is at the top left. A large blue star is at the centre."


def verdicts(*answers: str, caption: str = CAPTION) -> dict[str, str]:
    listed = [{"number": n, "text": text} for n, text in enumerate(answers, 1)]
    found = extract({"question": "?", "caption": caption, "answers": listed})["claims"]
    return {claim["claim"]: claim["verdict"] for claim in found}


@pytest.mark.parametrize(
    ("sentence", "verdict"),
    [
        ("A small red circle is at the top left.", "consistent"),
        ("A large red circle is at the top left.", "inconsistent"),
        ("A small red circle is at the top right.", "inconsistent"),
        ("Nothing is at the top right.", "consistent"),
        ("Nothing is at the centre.", "inconsistent"),
        ("There are two objects.", "consistent"),
        ("There are three objects.", "inconsistent"),
        ("A red circle is above a blue star.", "consistent"),
        ("A blue star is left of a red circle.", "inconsistent"),
        ("It is a lovely picture.", "unverifiable"),
    ],
)
def test_a_sentence_is_held_against_the_caption(sentence: str, verdict: str) -> None:
    assert verdicts(sentence) == {sentence: verdict}


def test_yes_and_no_are_full_claims() -> None:
    assert verdicts(
        "Yes, there is a red circle in the picture.", "No, there is no blue star in the picture."
    ) == {
        "There is a red circle in the picture.": "consistent",
        "There is no blue star in the picture.": "inconsistent",
    }


def test_a_claim_is_listed_once_with_all_its_answers_and_what_decides() -> None:
    answers = [{"number": n, "text": "A large red circle is at the top left."} for n in (1, 2)]
    [claim] = extract({"question": "?", "caption": CAPTION, "answers": answers})["claims"]
    assert claim["answers"] == [1, 2]
    assert claim["evidence"] == "A small red circle is at the top left."


def test_a_stray_full_stop_is_no_claim() -> None:
    assert verdicts(". There are two objects.") == {"There are two objects.": "consistent"}


def test_nothing_is_judged_by_a_caption_that_tells_nothing() -> None:
    assert set(verdicts("Nothing is at the centre.", caption="A nice day.").values()) == {
        "unverifiable"
    }


def test_of_claims_that_exclude_each_other_the_first_stays_in_reading_order() -> None:
    found = rewrite(
        {
            "question": prompt(Question("thorough")),
            "consistent": ["There are two objects.", "A small red circle is at the top left."],
            "inconsistent": [
                "There are four objects.",
                "A small blue star is at the centre.",
                "A large blue star is at the centre.",
                "There are three objects.",
                "A large red cross is at the top left.",
            ],
        }
    )
    assert found == {
        "chosen": "A small red circle is at the top left. There are two objects.",
        "rejected": "A large red cross is at the top left. A small blue star is at the centre.",
    }


def test_a_side_without_claims_is_null_and_yes_comes_back() -> None:
    found = rewrite(
        {
            "question": prompt(Question("yes_no", "red circle")),
            "consistent": [],
            "inconsistent": ["There is a red circle in the picture."],
        }
    )
    assert found == {"chosen": None, "rejected": "Yes, there is a red circle in the picture."}


@pytest.mark.parametrize("kind", KINDS)
def test_sides_are_true_and_false_of_the_scene_for_every_kind_of_question(kind: str) -> None:
    """A true caption parts what the reference's teacher says into what holds and what does not."""
    draw = random.Random(kind)
    told = {"chosen": 0, "rejected": 0}
    for scene in make_scenes(60, seed=7):
        question, believed = sample(scene, kind, draw, truthful=False)
        caption = answer(Question("describe"), scene.things)
        listed = [{"number": 1, "text": believed}]
        claims = extract({"question": question, "caption": caption, "answers": listed})["claims"]
        sides = {
            verdict: [claim["claim"] for claim in claims if claim["verdict"] == verdict]
            for verdict in ("consistent", "inconsistent", "unverifiable")
        }
        assert not sides["unverifiable"]
        for side, text in rewrite({"question": question, **sides}).items():
            for claim in parse(text or ""):
                told[side] += 1
                assert claim.fact is not None
                assert holds(claim.fact, scene.things) == (side == "chosen")
    assert min(told.values()) > 3
