from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from miniature.annotations import Annotation
from miniature.answers import (
    AnswerBook,
    UnknownImage,
    as_sentence,
    extract,
    judge,
    rewrite,
    yes_no_object,
)
from miniature.vocabulary import mentions, objects_named

PHOTO = Annotation(
    "a" * 64,
    ("a dog sits on a couch", "A brown dog\n resting."),
    ("couch", "dog"),
    aliases=("b" * 64,),
)
SCENE = Annotation(
    "c" * 64,
    ("A small red circle is at the top left.", "A large blue star is at the centre."),
    ("red circle", "blue star"),
)
BOOK = AnswerBook([PHOTO])
SCENES = AnswerBook([SCENE])
DESCRIBE = "Describe the picture."


def test_the_caption_says_all_that_is_known() -> None:
    assert BOOK.caption("a" * 64) == (
        "A dog sits on a couch. A brown dog resting. The picture contains: a couch, a dog."
    )


def test_an_alias_is_the_same_image() -> None:
    assert BOOK.caption("b" * 64) == BOOK.caption("a" * 64)
    assert BOOK.reference("b" * 64, DESCRIBE, 4) == BOOK.reference("a" * 64, DESCRIBE, 4)


def test_an_image_without_an_annotation_is_named() -> None:
    with pytest.raises(UnknownImage, match=r"image f{64} is not among the annotations"):
        BOOK.caption("f" * 64)


def test_an_answer_depends_on_image_prompt_and_seed_alone() -> None:
    again = AnswerBook([PHOTO])
    answers = [BOOK.reference("a" * 64, DESCRIBE, seed) for seed in range(20)]
    assert answers == [again.reference("a" * 64, DESCRIBE, seed) for seed in range(20)]
    assert len(set(answers)) > 10


@pytest.mark.parametrize(("book", "truth"), [(BOOK, PHOTO), (SCENES, SCENE)])
def test_planted_objects_are_absent_and_vary_in_number(book: AnswerBook, truth: Annotation) -> None:
    caption = book.caption(truth.sha256)
    counts = set()
    for seed in range(60):
        sentences = book.reference(truth.sha256, DESCRIBE, seed).split(". ")
        planted = [sentence for sentence in sentences if sentence.startswith("There is also")]
        told = [sentence for sentence in sentences if sentence not in planted]
        assert told
        assert all(sentence.rstrip(".") in caption for sentence in told)
        for sentence in planted:
            [name] = objects_named(f"{sentence.rstrip('.')}.")
            assert not mentions(caption, name)
        counts.add(len(planted))
    assert counts == {0, 1, 2}


@pytest.mark.parametrize(("asked", "right"), [("dog", "Yes"), ("zebra", "No")])
def test_yes_no_questions_are_mostly_answered_rightly(asked: str, right: str) -> None:
    prompt = f"Is there a {asked} in the picture?"
    answers = [BOOK.reference("a" * 64, prompt, seed) for seed in range(200)]
    share = sum(answer.startswith(right) for answer in answers) / len(answers)
    assert 0.55 < share < 0.85
    assert set(answers) == {
        f"Yes, there is a {asked} in the picture.",
        f"No, there is no {asked} in the picture.",
    }


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("Is there a dining table in the image?", "dining table"),
        ("Are there any Dogs?", "dogs"),
        ("What is there?", None),
        ("Describe it. Is there a dog?", None),
    ],
)
def test_yes_no_questions_are_told_apart(prompt: str, expected: str | None) -> None:
    assert yes_no_object(prompt) == expected


def test_a_sentence_has_a_capital_and_an_end() -> None:
    assert as_sentence("  a dog\n sits ") == "A dog sits."
    assert as_sentence("Is it?") == "Is it?"
    assert as_sentence("") == ""


@pytest.mark.parametrize(
    ("claim", "verdict"),
    [
        ("A small red circle is at the top left.", "consistent"),
        ("A small red circle is at the centre.", "inconsistent"),  # elsewhere
        ("A large red circle is at the top left.", "inconsistent"),  # another size
        ("There is a blue star in the picture.", "consistent"),
        ("There is a green cross in the picture.", "inconsistent"),
        ("There is no green cross in the picture.", "consistent"),
        ("There is no blue star in the picture.", "inconsistent"),
        ("The mood is calm.", "unverifiable"),
    ],
)
def test_the_verdict_follows_from_the_caption(claim: str, verdict: str) -> None:
    assert judge(claim, SCENES.caption("c" * 64).lower())[0] == verdict


def test_extract_makes_each_distinct_sentence_a_claim() -> None:
    data = {
        "question": DESCRIBE,
        "caption": "A dog sits on a couch.",
        "answers": [
            {"number": 1, "text": "A dog sits on a couch. There is also a zebra in the picture."},
            {"number": 2, "text": "Yes, there is a zebra in the picture."},
            {"number": 3, "text": "a dog sits on a couch."},
        ],
    }
    assert extract(data) == {
        "claims": [
            {
                "claim": "A dog sits on a couch.",
                "verdict": "consistent",
                "answers": [1, 3],
                "evidence": "a dog sits on a couch.",
            },
            {
                "claim": "There is a zebra in the picture.",
                "verdict": "inconsistent",
                "answers": [1, 2],
                "evidence": "",
            },
        ]
    }


def test_what_is_planted_is_found_again() -> None:
    texts = [SCENES.reference("c" * 64, DESCRIBE, seed) for seed in range(10)]
    answers = [{"number": n, "text": text} for n, text in enumerate(texts, 1)]
    caption = SCENES.caption("c" * 64)
    found = extract({"question": DESCRIBE, "caption": caption, "answers": answers})
    wrong = {c["claim"] for c in found["claims"] if c["verdict"] == "inconsistent"}
    planted = {
        sentence.rstrip(".").replace(" also", "") + "."
        for text in texts
        for sentence in text.split(". ")
        if " also " in sentence
    }
    assert planted
    assert wrong == planted
    assert {c["verdict"] for c in found["claims"]} == {"consistent", "inconsistent"}


def test_rewrite_joins_claims_and_says_null_where_there_are_none() -> None:
    data = {"question": DESCRIBE, "consistent": ["A dog sits.", "It is brown"], "inconsistent": []}
    assert rewrite(data) == {"chosen": "A dog sits. It is brown.", "rejected": None}


def test_rewrite_answers_a_yes_no_question() -> None:
    question = "Is there a dog in the picture?"
    data = {
        "question": question,
        "consistent": ["There is a dog in the picture."],
        "inconsistent": ["There is no dog in the picture."],
    }
    assert rewrite(data) == {
        "chosen": "Yes, there is a dog in the picture.",
        "rejected": "No, there is no dog in the picture.",
    }


CLAIMS = st.lists(st.sampled_from(["A dog.", "A cat sits.", "A red ball lies there."]), min_size=1)


@given(consistent=CLAIMS, inconsistent=CLAIMS)
def test_rewritten_texts_are_of_similar_length(
    consistent: list[str], inconsistent: list[str]
) -> None:
    data = {"question": DESCRIBE, "consistent": consistent, "inconsistent": inconsistent}
    texts = rewrite(data)
    for side, own, other in [
        (texts["chosen"], consistent, inconsistent),
        (texts["rejected"], inconsistent, consistent),
    ]:
        assert side is not None
        limit = 1.5 * sum(len(claim.split()) for claim in other)
        assert len(side.split()) <= max(limit, len(own[0].split()))
        assert " ".join(own).startswith(side)
