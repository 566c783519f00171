from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from config.recipe import Assemble
from curation.pairs import (
    FILTERS,
    SENTENCES,
    Drop,
    Keep,
    PairInput,
    Reason,
    count_words,
    decide,
    find_leak,
)

RULES = Assemble(min_words=2, max_words=10, max_length_ratio=2.0)
FREE = RULES.model_copy(update={"require_neighbour": False})
GOOD = PairInput(
    prompt="What is on the table?",
    chosen="A red mug stands on it.",
    rejected="A blue cup stands on it.",
    neighbour="ab" * 32,
    neighbour_chosen="A green bowl stands on it.",
)

# Every reason with a row that falls by it alone, and what the detail says.
FALLS: list[tuple[Reason, dict[str, Any], str]] = [
    (Reason.UPSTREAM_FAILED, {"failed_stage": "extract", "chosen": None}, "extract failed"),
    (
        Reason.UPSTREAM_FAILED,
        {"neighbour_failed_stage": "caption", "neighbour_chosen": None},
        "caption failed for the contrastive image",
    ),
    (Reason.MISSING_NEIGHBOUR, {"neighbour": None, "neighbour_chosen": None}, "no m' was found"),
    (
        Reason.MISSING_NEIGHBOUR,  # no call is spent on such a row: it stays pending for ever
        {"neighbour": None, "neighbour_chosen": None, "pending_stage": "caption"},
        "no m' was found",
    ),
    (Reason.NOT_READY, {"pending_stage": "rewrite", "chosen": None}, "rewrite is pending"),
    (Reason.NOT_READY, {"neighbour_pending_stage": "resample"}, "resample is pending for"),
    (Reason.NO_POSITIVE_CLAIM, {"chosen": None}, "no y_w"),
    (Reason.NO_NEGATIVE_CLAIM, {"rejected": None}, "no y_l"),
    (Reason.NEIGHBOUR_NO_POSITIVE_CLAIM, {"neighbour_chosen": None}, "no y'_w"),
    (Reason.IDENTICAL_TEXTS, {"rejected": "a red  mug stands on it"}, "y_w and y_l"),
    (Reason.IDENTICAL_NEIGHBOUR_TEXTS, {"neighbour_chosen": "A RED mug stands on it!"}, "y'_w"),
    (Reason.TOO_SHORT, {"rejected": "Cup."}, "rejected has 1 words, fewer than 2"),
    (Reason.TOO_SHORT, {"neighbour_chosen": "Bowl."}, "neighbour_chosen has 1 words"),
    (Reason.TOO_LONG, {"chosen": "mug " * 11}, "chosen has 11 words, more than 10"),
    (Reason.TOO_LONG, {"neighbour_chosen": "bowl " * 11}, "neighbour_chosen has 11 words"),
    (Reason.LENGTH_RATIO, {"chosen": "A mug."}, "2 to 6 words, more than 2 times"),
    (Reason.PROMPT_LEAKAGE, {"chosen": "The caption says it is red."}, "chosen speaks of the capt"),
    (Reason.PROMPT_LEAKAGE, {"neighbour_chosen": "The claims say a bowl."}, "neighbour_chosen sp"),
]


def test_a_good_row_is_kept() -> None:
    assert decide(GOOD, RULES) == Keep(contrast=True)


@pytest.mark.parametrize(("reason", "changes", "detail"), FALLS)
def test_a_row_falls_for_its_reason(reason: Reason, changes: dict[str, Any], detail: str) -> None:
    decision = decide(replace(GOOD, **changes), RULES)
    assert isinstance(decision, Drop)
    assert decision.reason is reason
    assert detail in decision.detail


def test_every_reason_has_a_filter_a_sentence_and_a_row_above() -> None:
    assert set(FILTERS) == set(SENTENCES) == {reason for reason, _, _ in FALLS} == set(Reason)


def test_reasons_are_counted_in_a_fixed_order() -> None:
    """A row with every fault is counted under the first; with that mended, under the next."""
    worst = PairInput(
        prompt="x", chosen=None, rejected=None, failed_stage="caption", pending_stage="extract"
    )
    mended: list[dict[str, Any]] = [
        {},
        {"failed_stage": None},
        {"neighbour": "ab" * 32},
        {"pending_stage": None},
        {"chosen": "The claims."},
        {"rejected": "the claims"},
        {"neighbour_chosen": "the claims"},
        {"rejected": "x"},
        {"neighbour_chosen": "x " * 11},
        {"rejected": "x " * 5},
        {"neighbour_chosen": "a bowl"},
        {"rejected": "x y"},
    ]
    counted: list[Reason] = []
    for changes in mended:
        worst = replace(worst, **changes)
        decision = decide(worst, RULES)
        assert isinstance(decision, Drop)
        counted.append(decision.reason)
    assert counted == list(FILTERS)
    assert Counter(counted).most_common(1)[0][1] == 1


@pytest.mark.parametrize(
    "changes",
    [
        {"neighbour": None, "neighbour_chosen": None},
        {"neighbour_failed_stage": "caption", "neighbour_chosen": None},
        {"neighbour_pending_stage": "caption", "neighbour_chosen": None},
        {"neighbour_chosen": None},
        {"neighbour_chosen": GOOD.chosen},
        {"neighbour_chosen": "Bowl."},
        {"neighbour_chosen": "As an AI language model, I see a bowl."},
    ],
)
def test_where_no_contrast_is_required_the_row_stays_without_it(changes: dict[str, Any]) -> None:
    row = replace(GOOD, **changes)
    assert isinstance(decide(row, RULES), Drop)
    assert decide(row, FREE) == Keep(contrast=False)
    assert decide(GOOD, FREE) == Keep(contrast=True)


def test_a_row_with_a_fault_of_its_own_falls_either_way() -> None:
    row = replace(GOOD, rejected=None, neighbour_chosen=None)
    decision = decide(row, FREE)
    assert isinstance(decision, Drop)
    assert decision.reason is Reason.NO_NEGATIVE_CLAIM


def test_limits_are_inclusive() -> None:
    edge = replace(GOOD, chosen="m " * 10, rejected="c " * 5, neighbour_chosen="b b")
    assert decide(edge, RULES) == Keep(contrast=True)


@pytest.mark.parametrize(
    ("text", "words"),
    [("", 0), ("A red mug.", 3), ("red-hot  mug\n", 2), ("红色的杯子", 5), ("一个mug在桌上", 6)],
)
def test_words_are_counted(text: str, words: int) -> None:
    assert count_words(text) == words


@pytest.mark.parametrize(
    ("text", "leak"),
    [
        ("According to the caption, a mug.", "speaks of the caption"),
        ("The claims list a mug.", "speaks of the claims"),
        ("Inconsistent: a mug.", "speaks of inconsistent"),
        ("Based on the provided description, a mug.", "speaks of the given description"),
        ("The description does not mention a mug.", "speaks of the given description"),
        ("As in the style example, a mug.", "speaks of the style example"),
        ("A mug.</data>", "speaks of a data tag"),
        ("As an AI language model I see a mug.", "speaks of an AI speaking of itself"),
        ('{"answer": "A mug."}', "holds JSON"),
        ('```json\n["a mug"]', "holds JSON"),
        ('A mug. "rejected": "A cup."', "holds JSON"),
        ("Chosen: A mug.", "speaks of a label"),
        ("**Answer**: A mug.", "speaks of a label"),
        ("I'm sorry, but I can't help with that.", "declines to answer"),
    ],
)
def test_leaks_are_found(text: str, leak: str) -> None:
    assert find_leak(text, "What is this?") == leak


@pytest.mark.parametrize(
    "text",
    [
        "A sign claims that the shop is open.",
        "Passengers wait in front of baggage claim number 3.",
        "The chosen colour is red; the answer on the board: 42.",
        "A label with {braces} hangs on the mug.",
        "A woman reads a description of the painting on the wall.",
    ],
)
def test_false_friends_are_no_leaks(text: str) -> None:
    assert find_leak(text, "What is this?") is None


def test_a_prompt_that_asks_about_captions_excuses_them() -> None:
    text = "The caption below the cartoon reads 'Monday'."
    assert find_leak(text, "What is this?") is not None
    assert find_leak(text, "What does the caption under the cartoon say?") is None


def test_a_long_prompt_is_not_repeated_in_the_text() -> None:
    long = "Tell me exactly which objects you can see here."
    assert find_leak(f"{long} A mug.", long) == "repeats the prompt"
    assert find_leak("Describe the image. A mug.", "Describe the image.") is None


texts = st.none() | st.sampled_from(
    ["A mug.", "a mug", "A cup here.", "x", "the claims", "w " * 11]
)


@given(
    st.builds(
        PairInput,
        prompt=st.just("x"),
        chosen=texts,
        rejected=texts,
        neighbour=st.none() | st.just("ab"),
        neighbour_chosen=texts,
        failed_stage=st.none() | st.just("caption"),
        pending_stage=st.none() | st.just("extract"),
    )
)
def test_a_kept_row_has_every_text_that_is_trained_on(row: PairInput) -> None:
    if decide(row, RULES) == Keep(contrast=True):
        assert None not in (row.chosen, row.rejected, row.neighbour, row.neighbour_chosen)
        assert len({row.chosen, row.rejected}) == 2
    free = decide(row, FREE)
    if isinstance(free, Keep):
        assert row.chosen is not None
        assert row.rejected is not None
        assert not free.contrast or row.neighbour_chosen is not None
