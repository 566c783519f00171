"""Which rows become training pairs, and why the others do not.

A filter looks at one row and answers None or why the row is dropped. FILTERS fixes their order: a
row is counted under the first reason that holds. Symbols as in SymMPO (NeurIPS 2025): image m,
prompt x, y_w chosen, y_l rejected, contrastive image m' and its chosen answer y'_w.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import StrEnum

from config.recipe import Assemble
from curation.claims import normalised
from curation.refusals import looks_like_refusal

LONG_PROMPT = 8  # words from which on a repeated prompt is no accident

_CJK = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff"
_WORD = re.compile(rf"[{_CJK}]|[^\s{_CJK}]+")

_META = {  # talk about how the texts were made; excused where the prompt itself speaks so
    "the caption": re.compile(r"\b(?:the|this|given|provided|image) captions?\b", re.IGNORECASE),
    "the claims": re.compile(
        r"\bthe (?:given |provided |listed |following |consistent )?claims\b", re.IGNORECASE
    ),
    "inconsistent": re.compile(r"\binconsistent\b", re.IGNORECASE),
    "the given description": re.compile(
        r"\b(?:given|provided|reference) (?:description|text|information|answers?)\b"
        r"|\bthe description (?:says|states|mentions|notes|does not)",
        re.IGNORECASE,
    ),
    "the style example": re.compile(r"\bstyle[ _]example\b", re.IGNORECASE),
    "a data tag": re.compile(r"</?data>", re.IGNORECASE),
    "an AI speaking of itself": re.compile(
        r"\bas an? (?:ai|(?:large )?language model)\b", re.IGNORECASE
    ),
    "JSON": re.compile(r'^\s*(?:```|[{\[]\s*")|"(?:chosen|rejected|claims?|verdict)"\s*:'),
    "a label": re.compile(r"^\W*(?:chosen|rejected|answer|response|assistant)\W*:", re.IGNORECASE),
}


class Reason(StrEnum):
    """Why a row is dropped. The value goes into the decisions table, SENTENCES into the card."""

    UPSTREAM_FAILED = "upstream_failed"
    MISSING_NEIGHBOUR = "missing_neighbour"
    NOT_READY = "not_ready"
    NO_POSITIVE_CLAIM = "no_positive_claim"
    NO_NEGATIVE_CLAIM = "no_negative_claim"
    NEIGHBOUR_NO_POSITIVE_CLAIM = "neighbour_no_positive_claim"
    IDENTICAL_TEXTS = "identical_texts"
    IDENTICAL_NEIGHBOUR_TEXTS = "identical_neighbour_texts"
    TOO_SHORT = "too_short"
    TOO_LONG = "too_long"
    LENGTH_RATIO = "length_ratio"
    PROMPT_LEAKAGE = "prompt_leakage"


SENTENCES: dict[Reason, str] = {
    Reason.UPSTREAM_FAILED: "A call for the row or for its contrastive image failed.",
    Reason.MISSING_NEIGHBOUR: "The image has no contrastive image.",
    Reason.NOT_READY: "A stage before has not done the row yet.",
    Reason.NO_POSITIVE_CLAIM: "No claim of the sampled answers agrees with the caption.",
    Reason.NO_NEGATIVE_CLAIM: "No claim of the sampled answers disagrees with the caption.",
    Reason.NEIGHBOUR_NO_POSITIVE_CLAIM: "The contrastive image has no claim that agrees.",
    Reason.IDENTICAL_TEXTS: "Chosen and rejected say the same words.",
    Reason.IDENTICAL_NEIGHBOUR_TEXTS: "Both images have the same chosen answer: no contrast.",
    Reason.TOO_SHORT: "A text has fewer words than min_words.",
    Reason.TOO_LONG: "A text has more words than max_words.",
    Reason.LENGTH_RATIO: "Chosen and rejected differ in length by more than max_length_ratio.",
    Reason.PROMPT_LEAKAGE: "A text speaks of how it was made, declines, or repeats the prompt.",
}


@dataclass(frozen=True, slots=True)
class PairInput:
    """All that is known of a row (m, x) once every stage had its turn.

    A text is None where it was not made: there were no claims for it, or its stage failed or is
    pending, which the stage fields say. `neighbour` None: mining found no m' for m.
    """

    prompt: str
    chosen: str | None
    rejected: str | None
    neighbour: str | None = None
    neighbour_chosen: str | None = None
    neighbour_rejected: str | None = None
    failed_stage: str | None = None
    pending_stage: str | None = None
    neighbour_failed_stage: str | None = None
    neighbour_pending_stage: str | None = None

    def alone(self) -> PairInput:
        """The row without m' and all that belongs to it."""
        return replace(
            self,
            neighbour=None,
            neighbour_chosen=None,
            neighbour_rejected=None,
            neighbour_failed_stage=None,
            neighbour_pending_stage=None,
        )


@dataclass(frozen=True, slots=True)
class Keep:
    """The row is kept. Without `contrast` it serves DPO alone: leave out m' and its texts."""

    contrast: bool


@dataclass(frozen=True, slots=True)
class Drop:
    reason: Reason
    detail: str


Filter = Callable[[PairInput, Assemble], str | None]


def decide(row: PairInput, rules: Assemble) -> Keep | Drop:
    """Keeps a row or drops it with the first reason that holds.

    Where m' is not required, a row that falls by its m' alone is kept without it.
    """
    drop = _first(row, rules)
    if drop is None:
        return Keep(contrast=row.neighbour is not None)
    if rules.require_neighbour or row.neighbour is None:
        return drop
    return _first(row.alone(), rules) or Keep(contrast=False)


def _first(row: PairInput, rules: Assemble) -> Drop | None:
    for reason, holds in FILTERS.items():
        detail = holds(row, rules)
        if detail is not None:
            return Drop(reason, detail)
    return None


def count_words(text: str) -> int:
    """Words between spaces; every Chinese character and Japanese kana counts as one."""
    return len(_WORD.findall(text))


def find_leak(text: str, prompt: str) -> str | None:
    """What in a text betrays how it was made, in words; None where nothing does."""
    for name, pattern in _META.items():
        if pattern.search(text) and not pattern.search(prompt):
            return f"speaks of {name}" if name != "JSON" else "holds JSON"
    if looks_like_refusal(text):
        return "declines to answer"
    if count_words(prompt) >= LONG_PROMPT and normalised(prompt) in normalised(text):
        return "repeats the prompt"
    return None


def _texts(row: PairInput) -> list[tuple[str, str]]:
    """The texts that are trained on: y_w, y_l and y'_w."""
    named = (
        ("chosen", row.chosen),
        ("rejected", row.rejected),
        ("neighbour_chosen", row.neighbour_chosen),
    )
    return [(name, text) for name, text in named if text is not None]


def _upstream_failed(row: PairInput, rules: Assemble) -> str | None:
    if row.failed_stage:
        return f"{row.failed_stage} failed"
    if row.neighbour_failed_stage:
        return f"{row.neighbour_failed_stage} failed for the contrastive image"
    return None


def _missing_neighbour(row: PairInput, rules: Assemble) -> str | None:
    return "no m' was found" if rules.require_neighbour and row.neighbour is None else None


def _not_ready(row: PairInput, rules: Assemble) -> str | None:
    if row.pending_stage:
        return f"{row.pending_stage} is pending"
    if row.neighbour_pending_stage:
        return f"{row.neighbour_pending_stage} is pending for the contrastive image"
    return None


def _no_positive_claim(row: PairInput, rules: Assemble) -> str | None:
    return "there is no y_w" if row.chosen is None else None


def _no_negative_claim(row: PairInput, rules: Assemble) -> str | None:
    return "there is no y_l" if row.rejected is None else None


def _neighbour_no_positive_claim(row: PairInput, rules: Assemble) -> str | None:
    missing = row.neighbour is not None and row.neighbour_chosen is None
    return "there is no y'_w" if missing else None


def _identical_texts(row: PairInput, rules: Assemble) -> str | None:
    same = normalised(row.chosen or "") == normalised(row.rejected or "")
    return "y_w and y_l are the same" if same else None


def _identical_neighbour_texts(row: PairInput, rules: Assemble) -> str | None:
    if row.neighbour_chosen is None:
        return None
    same = normalised(row.chosen or "") == normalised(row.neighbour_chosen)
    return "y_w and y'_w are the same" if same else None


def _too_short(row: PairInput, rules: Assemble) -> str | None:
    for name, text in _texts(row):
        words = count_words(text)
        if words < rules.min_words:
            return f"{name} has {words} words, fewer than {rules.min_words}"
    return None


def _too_long(row: PairInput, rules: Assemble) -> str | None:
    for name, text in _texts(row):
        words = count_words(text)
        if words > rules.max_words:
            return f"{name} has {words} words, more than {rules.max_words}"
    return None


def _length_ratio(row: PairInput, rules: Assemble) -> str | None:
    chosen, rejected = count_words(row.chosen or ""), count_words(row.rejected or "")
    if max(chosen, rejected) <= rules.max_length_ratio * min(chosen, rejected):
        return None
    return f"{chosen} to {rejected} words, more than {rules.max_length_ratio:g} times"


def _prompt_leakage(row: PairInput, rules: Assemble) -> str | None:
    for name, text in _texts(row):
        leak = find_leak(text, row.prompt)
        if leak is not None:
            return f"{name} {leak}"
    return None


FILTERS: dict[Reason, Filter] = {
    # What was not made comes first, and a missing m' before what is pending: no call is spent on
    # a row that needs an m' and has none.
    Reason.UPSTREAM_FAILED: _upstream_failed,
    Reason.MISSING_NEIGHBOUR: _missing_neighbour,
    Reason.NOT_READY: _not_ready,
    Reason.NO_POSITIVE_CLAIM: _no_positive_claim,
    Reason.NO_NEGATIVE_CLAIM: _no_negative_claim,
    Reason.NEIGHBOUR_NO_POSITIVE_CLAIM: _neighbour_no_positive_claim,
    Reason.IDENTICAL_TEXTS: _identical_texts,
    Reason.IDENTICAL_NEIGHBOUR_TEXTS: _identical_neighbour_texts,
    Reason.TOO_SHORT: _too_short,
    Reason.TOO_LONG: _too_long,
    Reason.LENGTH_RATIO: _length_ratio,
    Reason.PROMPT_LEAKAGE: _prompt_leakage,
}
