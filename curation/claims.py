"""What the claim model answers: the forms, what makes an answer usable, and merging of claims.

Claims and verdicts are steps 3 and 4 of SymMPO's caption-anchored pipeline (section 4.1). Fields
that were not asked for are ignored: refusing them would pay for a second answer no better than
the first.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, StringConstraints

Verdict = Literal["consistent", "inconsistent", "unverifiable"]

CLAIM_CHARACTERS = 1000  # an atomic claim is one sentence; more is a copied answer

_SPACE = re.compile(r"\s+")
_ENDS = re.compile(r"^\s+|[\s.!?;,。]+$")
_NOTHING = frozenset({"", "null", "none", "n/a", "nil", "-"})


def _lower(value: Any) -> Any:
    return value.strip().lower() if isinstance(value, str) else value


def _text_or_empty(value: Any) -> Any:
    return "" if value is None else value


Text = Annotated[
    str, StringConstraints(strip_whitespace=True, min_length=1, max_length=CLAIM_CHARACTERS)
]


class Claim(BaseModel):
    """One atomic claim. `answers` are the numbers, from 1, of the answers that make it."""

    model_config = ConfigDict(frozen=True)

    claim: Text
    verdict: Annotated[Verdict, BeforeValidator(_lower)]
    answers: tuple[int, ...]
    evidence: Annotated[str, BeforeValidator(_text_or_empty)] = ""


class ExtractAnswer(BaseModel):
    """The answer of the comparison. It may hold no claims: "I don't know" makes none."""

    model_config = ConfigDict(frozen=True)

    claims: tuple[Claim, ...]


class RewriteAnswer(BaseModel):
    """y_w from the consistent claims, y_l from the inconsistent ones; null where there are none."""

    model_config = ConfigDict(frozen=True)

    chosen: str | None
    rejected: str | None


def check_extract(answer: ExtractAnswer, k: int) -> None:
    """Every claim names answers it occurs in, each from 1 to k.

    Raises ValueError with a message for the model that gave the answer.
    """
    for place, claim in enumerate(answer.claims):
        if not normalised(claim.claim):
            raise ValueError(f"claims.{place}.claim holds no words; write a sentence")
        if not claim.answers:
            raise ValueError(
                f"claims.{place}.answers is empty; list the numbers of the answers that make it"
            )
        wrong = [number for number in claim.answers if not 1 <= number <= k]
        if wrong:
            raise ValueError(
                f"claims.{place}.answers names answer {wrong[0]}; the answers are 1 to {k}"
            )


def check_rewrite(answer: RewriteAnswer, has_consistent: bool, has_inconsistent: bool) -> None:
    """A text exactly where there are claims for it, and two different texts.

    Raises ValueError with a message for the model that gave the answer.
    """
    _check_side("chosen", answer.chosen, "consistent", has_consistent)
    _check_side("rejected", answer.rejected, "inconsistent", has_inconsistent)
    if answer.chosen is None or answer.rejected is None:
        return
    if normalised(answer.chosen) == normalised(answer.rejected):
        raise ValueError(
            "chosen and rejected are the same text; chosen states the consistent claims, "
            "rejected the inconsistent ones"
        )


def _check_side(field: str, text: str | None, claims: str, has_claims: bool) -> None:
    if not has_claims and text is not None:
        raise ValueError(f"{field} must be null, because {claims!r} is empty")
    if has_claims and text is None:
        raise ValueError(f"{field} is null; write a text that states the claims in {claims!r}")
    if text is not None and text.strip().lower() in _NOTHING:
        raise ValueError(f"{field} holds no text; write one that states the claims in {claims!r}")


def merge_claims(claims: Iterable[Claim]) -> tuple[Claim, ...]:
    """Claims with the same words as one, in order of first mention.

    It occurs in the answers of all of them; its evidence is the first that is not empty. Where
    their verdicts differ, the model contradicts itself: the claim becomes unverifiable, so that
    it goes into neither text. Merging twice changes nothing.
    """
    merged: dict[str, Claim] = {}
    for claim in claims:
        key = normalised(claim.claim)
        merged[key] = _joined(merged[key], claim) if key in merged else _joined(claim, claim)
    return tuple(merged.values())


def _joined(first: Claim, other: Claim) -> Claim:
    return Claim(
        claim=first.claim,
        verdict=first.verdict if first.verdict == other.verdict else "unverifiable",
        answers=tuple(sorted({*first.answers, *other.answers})),
        evidence=first.evidence or other.evidence,
    )


def normalised(text: str) -> str:
    """What two texts have in common that differ in case, spaces or end punctuation alone."""
    plain = _SPACE.sub(" ", unicodedata.normalize("NFKC", text).casefold())
    return _ENDS.sub("", plain)


def _object(properties: dict[str, Any]) -> dict[str, Any]:
    """An object in OpenAI's strict form: every property required, no other allowed."""
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


EXTRACT_SCHEMA: dict[str, Any] = _object(
    {
        "claims": {
            "type": "array",
            "items": _object(
                {
                    "claim": {"type": "string"},
                    "verdict": {
                        "type": "string",
                        "enum": ["consistent", "inconsistent", "unverifiable"],
                    },
                    "answers": {"type": "array", "items": {"type": "integer"}},
                    "evidence": {"type": "string"},
                }
            ),
        }
    }
)

REWRITE_SCHEMA: dict[str, Any] = _object(
    {"chosen": {"type": ["string", "null"]}, "rejected": {"type": ["string", "null"]}}
)
