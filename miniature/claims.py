"""The claim model of the miniature world, by rule over the small language. Pure.

It reads nothing but the data block of a request: the answers' sentences are compared with what
the caption tells, and both sides are written from the claims in the language's own sentences.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from typing import Any

from miniature.language import (
    Claim,
    Counted,
    Empty,
    Fact,
    Present,
    Related,
    Seen,
    holds,
    parse,
    say,
    things_told,
)
from miniature.questions import DESCRIPTIONS, question_of
from miniature.scenes import Thing
from miniature.vocabulary import PLACES, with_article

LENGTH_RATIO = 1.5  # as the rewrite prompt has it: neither side has more times the other's words


def extract(data: dict[str, Any]) -> dict[str, Any]:
    """The claims of all answers, each once, with verdicts against the caption.

    `data` is {"question", "caption", "answers": [{"number", "text"}]}. A sentence that is not of
    the language makes an unverifiable claim, and so does any where the caption tells of no thing.
    Raises KeyError, TypeError or AttributeError where `data` has another form.
    """
    things = things_told(parse(data["caption"]))
    claims: dict[Hashable, dict[str, Any]] = {}
    for answer in data["answers"]:
        for claim in parse(answer["text"]):
            if not any(letter.isalnum() for letter in claim.sentence):
                continue  # a stray full stop claims nothing
            entry = claims.setdefault(claim.fact or claim.sentence.lower(), _judged(claim, things))
            if answer["number"] not in entry["answers"]:
                entry["answers"].append(answer["number"])
    return {"claims": list(claims.values())}


def rewrite(data: dict[str, Any]) -> dict[str, str | None]:
    """Two answers in the language from {"question", "consistent", "inconsistent"}; None for no claim.

    Of claims that exclude each other the first stays. Things are told in reading order, counts
    last, as the language's own descriptions are. A text that is too long gives up its last claims,
    except that a description stays whole: it was asked for everything.
    Raises KeyError, TypeError or AttributeError where `data` has another form.
    """
    chosen, rejected = _side(data["consistent"]), _side(data["inconsistent"])
    question = question_of(data["question"])
    whole = question is not None and question.kind in DESCRIPTIONS
    if chosen and rejected:
        kept = chosen if whole else _trimmed(chosen, rejected)
        chosen, rejected = kept, _trimmed(rejected, chosen)
    return {"chosen": " ".join(chosen) or None, "rejected": " ".join(rejected) or None}


def _judged(claim: Claim, things: Sequence[Thing]) -> dict[str, Any]:
    verdict, evidence = "unverifiable", ""
    if claim.fact is not None and things:
        verdict = "consistent" if holds(claim.fact, things) else "inconsistent"
        evidence = _evidence(claim.fact, things)
    return {
        "claim": _alone(claim),
        "verdict": verdict,
        "answers": [],
        "evidence": evidence,
    }


def _alone(claim: Claim) -> str:
    """The sentence without the "Yes," or "No," that leans on the question."""
    match claim.fact:
        case Present(name, True):
            return f"There is {with_article(name)} in the picture."
        case Present(name, _):
            return f"There is no {name} in the picture."
    return claim.sentence


def _evidence(fact: Fact, things: Sequence[Thing]) -> str:
    """The first of the caption's sentences that decides; "" where none does."""
    for thing in things:
        match fact:
            case Seen(other) if thing.place == other.place:
                return thing.sentence
            case Empty(place) if thing.place == place:
                return thing.sentence
            case Present(name, _) if thing.name == name:
                return thing.sentence
            case Related(first, _, second) if thing.name in (first, second):
                return thing.sentence
    return ""


def _side(claims: Iterable[str]) -> list[str]:
    """The sentences of one side, in the order of telling. What is not of the language stays last."""
    kept: dict[Hashable, Claim] = {}
    for text in claims:
        for claim in parse(text):
            kept.setdefault(_slot(claim), claim)
    ordered = sorted(kept.values(), key=_order)
    return [claim.sentence if claim.fact is None else say(claim.fact) for claim in ordered]


def _slot(claim: Claim) -> Hashable:
    """What only one claim of a text can be about: two of one slot exclude each other."""
    match claim.fact:
        case Seen(thing):
            return ("at", thing.place)
        case Empty(place):
            return ("at", place)
        case Counted(what, _):
            return ("number of", what)
        case Present(name, _):
            return ("presence of", name)
        case None:
            return claim.sentence.lower()
    return claim.fact


def _order(claim: Claim) -> int:
    match claim.fact:
        case Present():
            return -1
        case Seen(thing):
            return thing.place
        case Empty(place):
            return place
        case Related():
            return len(PLACES)
        case Counted():
            return len(PLACES) + 1
    return len(PLACES) + 2


def _trimmed(sentences: list[str], other: list[str]) -> list[str]:
    room = LENGTH_RATIO * sum(len(sentence.split()) for sentence in other)
    kept = sentences[:1]
    for sentence in sentences[1:]:
        if sum(len(text.split()) for text in (*kept, sentence)) > room:
            break
        kept.append(sentence)
    return kept
