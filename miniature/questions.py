"""Questions about scenes, in several wordings each, and their answers in the small language. Pure.

A question is answered from things: from a scene's own, and the answer is true; from what somebody
believes to be there, and the answer errs as the belief does.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from miniature.language import (
    ABOVE,
    COUNTABLE,
    LEFT_OF,
    NUMBERS,
    OBJECT_PATTERN,
    PLACE_PATTERN,
    SINGULAR,
    WHAT_PATTERN,
    Counted,
    Empty,
    Fact,
    Present,
    Related,
    Seen,
    count,
    plural,
    say,
    tokens,
)
from miniature.scenes import DESCRIBE, Thing
from miniature.vocabulary import PLACES, SCENE_OBJECTS, SIZES, with_article

# What each kind of question is worded like; {} is what the question is about.
WORDINGS: dict[str, tuple[str, ...]] = {
    "describe": DESCRIBE[:2],
    "thorough": (*DESCRIBE[2:], "Describe everything in the picture and count the objects."),
    "relate": (
        "How are the objects placed?",
        "Describe how the objects are placed in the picture.",
        "Which object is next to which?",
    ),
    "count": (
        "How many {} are there?",
        "How many {} can you see in the picture?",
        "Count the {} in the picture.",
    ),
    "yes_no": (
        "Is there {} in the picture?",
        "Can you see {} in the picture?",
        "Does the picture show {}?",
    ),
    "at": (
        "What is at the {}?",
        "What can you see at the {}?",
        "Which object is at the {}?",
    ),
}
KINDS = tuple(WORDINGS)
DESCRIPTIONS = ("describe", "thorough")  # the kinds whose answers name everything


@dataclass(frozen=True, slots=True)
class Question:
    """`about`: "" for a description and for "relate", one of COUNTABLE, an object, or a place."""

    kind: str
    about: str = ""


def prompt(question: Question, wording: int = 0) -> str:
    """The question in words; wordings are numbered from 0, modulo how many its kind has.

    Raises ValueError for an unknown kind.
    """
    try:
        forms = WORDINGS[question.kind]
    except KeyError:
        raise ValueError(
            f"unknown kind of question {question.kind!r}; expected one of {', '.join(KINDS)}"
        ) from None
    about = question.about
    if question.kind == "yes_no":
        about = with_article(about)
    elif question.kind == "count":
        about = plural(about)
    return forms[wording % len(forms)].format(about)


def question_of(text: str) -> Question | None:
    """The question that a prompt asks, in any of its wordings; None where it is none of them."""
    plain = " ".join(text.split())
    for pattern, kind in _PROMPTS:
        match = pattern.fullmatch(plain)
        if match:
            about = match.group(1).lower() if match.groups() else ""
            if kind == "count":
                about = SINGULAR[about]
            return Question(kind, about)
    return None


def draw_question(
    kind: str, things: Sequence[Thing], draw: random.Random, lures: Sequence[str] = SCENE_OBJECTS
) -> Question:
    """A question of a kind about some things. Half of the yes/no questions ask for an object that
    is not there, drawn from `lures`."""
    if kind == "count":
        thing = draw.choice(things)
        what = draw.choice(("object", thing.colour, thing.shape, draw.choice(COUNTABLE)))
        return Question(kind, what)
    if kind == "yes_no":
        present = [thing.name for thing in things]
        absent = [name for name in lures if name not in present]
        return Question(kind, draw.choice(present if draw.random() < 0.5 else absent))
    if kind == "at":
        taken = [thing.place for thing in things]
        place = draw.choice(taken) if draw.random() < 0.7 else draw.randrange(len(PLACES))
        return Question(kind, PLACES[place])
    return Question(kind)


def answer(question: Question, things: Sequence[Thing]) -> str:
    """The answer to a question that is true of the things, told in their order. At least one thing.

    Raises ValueError for an unknown kind.
    """
    return " ".join(say(fact) for fact in facts(question, things))


def facts(question: Question, things: Sequence[Thing]) -> list[Fact]:
    """What a full answer to the question states of the things, in the order of telling."""
    about = question.about
    match question.kind:
        case "describe":
            return [Seen(thing) for thing in things]
        case "thorough":
            return [*(Seen(thing) for thing in things), Counted("object", len(things))]
        case "relate":
            return _relations(things) or [Counted("object", len(things))]
        case "count":
            return [Counted(about, count(about, things))]
        case "yes_no":
            return [Present(about, any(thing.name == about for thing in things))]
        case "at":
            place = PLACES.index(about)
            found: list[Fact] = [Seen(thing) for thing in things if thing.place == place]
            return found or [Empty(place)]
    raise ValueError(
        f"unknown kind of question {question.kind!r}; expected one of {', '.join(KINDS)}"
    )


def words() -> tuple[str, ...]:
    """All words and marks of the language, sorted: the vocabulary of a word-level tokenizer."""
    abouts = {"count": COUNTABLE, "yes_no": SCENE_OBJECTS, "at": PLACES}
    texts = [
        prompt(Question(kind, about), wording)
        for kind, forms in WORDINGS.items()
        for about in abouts.get(kind, ("",))
        for wording in range(len(forms))
    ]
    stated: list[Fact] = [
        Seen(Thing(*name.split(), size, place))
        for name in SCENE_OBJECTS
        for size in SIZES
        for place in range(len(PLACES))
    ]
    stated += [Counted(what, n) for what in COUNTABLE for n in range(len(NUMBERS))]
    stated += [Present(name, there) for name in SCENE_OBJECTS for there in (True, False)]
    stated += [Related(n, how, n) for n in SCENE_OBJECTS for how in (LEFT_OF, ABOVE)]
    stated.append(Empty(0))
    return tuple(sorted({word for text in (*texts, *map(say, stated)) for word in tokens(text)}))


def _relations(things: Sequence[Thing]) -> list[Fact]:
    ordered = sorted(things, key=lambda thing: thing.place)
    pairs = pairwise(ordered)
    return [
        Related(a.name, LEFT_OF if a.place // 3 == b.place // 3 else ABOVE, b.name)
        for a, b in pairs
    ]


_ABOUT = {"count": WHAT_PATTERN, "yes_no": rf"an? {OBJECT_PATTERN}", "at": PLACE_PATTERN}
_PROMPTS = [
    (
        re.compile(re.escape(form).replace(r"\{\}", _ABOUT.get(kind, "")), re.IGNORECASE),
        kind,
    )
    for kind, forms in WORDINGS.items()
    for form in forms
]
