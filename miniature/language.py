"""The small language of the scenes: sentences and the facts they state, questions and true answers.

Pure. Every answer is sentences of six forms, each of which states one fact and can be split off as
an atomic claim:

    A small red circle is at the top left.             Seen
    Nothing is at the centre.                          Empty
    Yes, there is a red circle in the picture.         Present (or: No, there is no ...)
    There are two red things.                          Counted
    A red circle is left of a blue square.             Related
    A red circle is above a blue square.               Related

`answer` says what is true of some things, `parse` reads a text back, `holds` judges a fact. Things
may also be what somebody believes, or what a caption tells: `things_told` gives those.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeAlias

from miniature.scenes import DESCRIBE, Thing
from miniature.vocabulary import COLOURS, PLACES, SCENE_OBJECTS, SHAPES, SIZES, with_article

LEFT_OF, ABOVE = "left of", "above"
NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
COUNTABLE = ("object", *COLOURS, *SHAPES)

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
class Seen:
    """A thing of this size, colour and shape is at this place."""

    thing: Thing


@dataclass(frozen=True, slots=True)
class Empty:
    """Nothing is at the place (its number in reading order)."""

    place: int


@dataclass(frozen=True, slots=True)
class Present:
    """An object ("red circle") is in the picture, or is not."""

    name: str
    there: bool


@dataclass(frozen=True, slots=True)
class Counted:
    """There are so many of: "object", a colour or a shape."""

    what: str
    number: int


@dataclass(frozen=True, slots=True)
class Related:
    """One object is LEFT_OF or ABOVE another."""

    first: str
    relation: str
    second: str


Fact: TypeAlias = Seen | Empty | Present | Counted | Related


@dataclass(frozen=True, slots=True)
class Claim:
    """A sentence as it stands, and the fact that it states; None where it is not of this language."""

    sentence: str
    fact: Fact | None


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
        about = _plural(about)
    return forms[wording % len(forms)].format(about)


def question_of(text: str) -> Question | None:
    """The question that a prompt asks, in any of its wordings; None where it is none of them."""
    plain = " ".join(text.split())
    for pattern, kind in _PROMPTS:
        match = pattern.fullmatch(plain)
        if match:
            about = match.group(1).lower() if match.groups() else ""
            if kind == "count":
                about = _SINGULAR[about]
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


def say(fact: Fact) -> str:
    """The sentence that states a fact."""
    match fact:
        case Seen(thing):
            return thing.sentence
        case Empty(place):
            return f"Nothing is at the {PLACES[place]}."
        case Present(name, True):
            return f"Yes, there is {with_article(name)} in the picture."
        case Present(name, _):
            return f"No, there is no {name} in the picture."
        case Counted(what, 1):
            return f"There is one {_singular(what)}."
        case Counted(what, number):
            return f"There are {NUMBERS[number]} {_plural(what)}."
        case Related(first, relation, second):
            return f"{with_article(first).capitalize()} is {relation} {with_article(second)}."
    raise TypeError(f"{fact!r} is no fact; expected one of Seen, Empty, Present, Counted, Related")


def parse(text: str) -> list[Claim]:
    """The sentences of a text, in order, each with the fact that it states."""
    sentences = [part.strip() for part in _SENTENCE_END.split(text) if part.strip()]
    return [Claim(sentence, _fact(sentence)) for sentence in sentences]


def holds(fact: Fact, things: Sequence[Thing]) -> bool:
    """Whether a fact is true of exactly these things."""
    match fact:
        case Seen(thing):
            return thing in things
        case Empty(place):
            return all(thing.place != place for thing in things)
        case Present(name, there):
            return there == any(thing.name == name for thing in things)
        case Counted(what, number):
            return count(what, things) == number
        case Related(first, relation, second):
            return any(
                _is_related(one, relation, other)
                for one in things
                for other in things
                if one.name == first and other.name == second
            )
    raise TypeError(f"{fact!r} is no fact; expected one of Seen, Empty, Present, Counted, Related")


def count(what: str, things: Iterable[Thing]) -> int:
    """How many of the things are of a colour or a shape, or are an "object"."""
    return sum(what in ("object", thing.colour, thing.shape) for thing in things)


def things_told(claims: Iterable[Claim]) -> tuple[Thing, ...]:
    """The things that a description tells of, each once, in reading order."""
    told = {claim.fact.thing for claim in claims if isinstance(claim.fact, Seen)}
    return tuple(sorted(told, key=lambda thing: (thing.place, thing.name, thing.size)))


def names_told(claims: Iterable[Claim]) -> tuple[str, ...]:
    """The objects a text says are there, each once, in order of mention."""
    told: list[str] = []
    for claim in claims:
        match claim.fact:
            case Seen(thing):
                told.append(thing.name)
            case Present(name, True):
                told.append(name)
            case Related(first, _, second):
                told += [first, second]
    return tuple(dict.fromkeys(told))


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


def tokens(text: str) -> list[str]:
    """A text's words, with full stops, commas and question marks by themselves."""
    return _TOKEN.findall(text)


def _relations(things: Sequence[Thing]) -> list[Fact]:
    ordered = sorted(things, key=lambda thing: thing.place)
    pairs = pairwise(ordered)
    return [
        Related(a.name, LEFT_OF if a.place // 3 == b.place // 3 else ABOVE, b.name)
        for a, b in pairs
    ]


def _is_related(one: Thing, relation: str, other: Thing) -> bool:
    if relation == LEFT_OF:
        return one.place % 3 < other.place % 3
    return one.place // 3 < other.place // 3


def _singular(what: str) -> str:
    return f"{what} thing" if what in COLOURS else what


def _plural(what: str) -> str:
    return f"{_singular(what)}es" if what.endswith("s") else f"{_singular(what)}s"


def _fact(sentence: str) -> Fact | None:
    plain = " ".join(sentence.lower().split())
    for pattern, read in _FORMS:
        match = pattern.fullmatch(plain)
        if match:
            return read(*match.groups())
    return None


def _counted(number: str, what: str) -> Counted:
    return Counted(_SINGULAR[what], NUMBERS.index(number))


_SINGULAR = {form(what): what for what in COUNTABLE for form in (_plural, _singular)}
_TOKEN = re.compile(r"[.,?]|[^\s.,?]+")
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+")
_OBJECT = rf"((?:{'|'.join(COLOURS)}) (?:{'|'.join(SHAPES)}))"
_PLACE = rf"({'|'.join(PLACES)})"
_WHAT = rf"({'|'.join(sorted(_SINGULAR, key=len, reverse=True))})"
_FORMS = (
    (
        re.compile(
            rf"an? ({'|'.join(SIZES)}) ({'|'.join(COLOURS)}) ({'|'.join(SHAPES)}) "
            rf"is at the {_PLACE}\."
        ),
        lambda size, colour, shape, place: Seen(Thing(colour, shape, size, PLACES.index(place))),
    ),
    (re.compile(rf"nothing is at the {_PLACE}\."), lambda place: Empty(PLACES.index(place))),
    (
        re.compile(rf"(?:yes, )?there is (?:also )?an? {_OBJECT} in the picture\."),
        lambda name: Present(name, True),
    ),
    (
        re.compile(rf"(?:no, )?there is no {_OBJECT} in the picture\."),
        lambda name: Present(name, False),
    ),
    (re.compile(rf"there (?:is|are) ({'|'.join(NUMBERS)}) {_WHAT}\."), _counted),
    (
        re.compile(rf"an? {_OBJECT} is ({LEFT_OF}|{ABOVE}) an? {_OBJECT}\."),
        Related,
    ),
)
_ABOUT = {"count": _WHAT, "yes_no": rf"an? {_OBJECT}", "at": _PLACE}
_PROMPTS = [
    (
        re.compile(re.escape(form).replace(r"\{\}", _ABOUT.get(kind, "")), re.IGNORECASE),
        kind,
    )
    for kind, forms in WORDINGS.items()
    for form in forms
]
