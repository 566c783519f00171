"""The small language of the scenes: sentences and the facts they state.

Pure. Every answer is sentences of six forms, each of which states one fact and can be split off as
an atomic claim:

    A small red circle is at the top left.             Seen
    Nothing is at the centre.                          Empty
    Yes, there is a red circle in the picture.         Present (or: No, there is no ...)
    There are two red things.                          Counted
    A red circle is left of a blue square.             Related
    A red circle is above a blue square.               Related

`say` states a fact, `parse` reads a text back, `holds` judges a fact by what is there. That may also
be what somebody believes, or what a caption tells: `things_told` gives those. Questions and their
answers are in `miniature/questions.py`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from miniature.scenes import Thing
from miniature.vocabulary import COLOURS, PLACES, SHAPES, SIZES, with_article

LEFT_OF, ABOVE = "left of", "above"
NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
COUNTABLE = ("object", *COLOURS, *SHAPES)


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
            return f"There is one {singular(what)}."
        case Counted(what, number):
            return f"There are {NUMBERS[number]} {plural(what)}."
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


def tokens(text: str) -> list[str]:
    """A text's words, with full stops, commas and question marks by themselves."""
    return _TOKEN.findall(text)


def _is_related(one: Thing, relation: str, other: Thing) -> bool:
    if relation == LEFT_OF:
        return one.place % 3 < other.place % 3
    return one.place // 3 < other.place // 3


def singular(what: str) -> str:
    """One of COUNTABLE as a noun: "red" -> "red thing"."""
    return f"{what} thing" if what in COLOURS else what


def plural(what: str) -> str:
    """One of COUNTABLE as a noun of many: "red" -> "red things"."""
    return f"{singular(what)}es" if what.endswith("s") else f"{singular(what)}s"


def _fact(sentence: str) -> Fact | None:
    plain = " ".join(sentence.lower().split())
    for pattern, read in _FORMS:
        match = pattern.fullmatch(plain)
        if match:
            return read(*match.groups())
    return None


def _counted(number: str, what: str) -> Counted:
    return Counted(SINGULAR[what], NUMBERS.index(number))


SINGULAR = {form(what): what for what in COUNTABLE for form in (plural, singular)}
_TOKEN = re.compile(r"[.,?]|[^\s.,?]+")
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+")
OBJECT_PATTERN = rf"((?:{'|'.join(COLOURS)}) (?:{'|'.join(SHAPES)}))"
PLACE_PATTERN = rf"({'|'.join(PLACES)})"
WHAT_PATTERN = rf"({'|'.join(sorted(SINGULAR, key=len, reverse=True))})"
_FORMS = (
    (
        re.compile(
            rf"an? ({'|'.join(SIZES)}) ({'|'.join(COLOURS)}) ({'|'.join(SHAPES)}) "
            rf"is at the {PLACE_PATTERN}\."
        ),
        lambda size, colour, shape, place: Seen(Thing(colour, shape, size, PLACES.index(place))),
    ),
    (re.compile(rf"nothing is at the {PLACE_PATTERN}\."), lambda place: Empty(PLACES.index(place))),
    (
        re.compile(rf"(?:yes, )?there is (?:also )?an? {OBJECT_PATTERN} in the picture\."),
        lambda name: Present(name, True),
    ),
    (
        re.compile(rf"(?:no, )?there is no {OBJECT_PATTERN} in the picture\."),
        lambda name: Present(name, False),
    ),
    (re.compile(rf"there (?:is|are) ({'|'.join(NUMBERS)}) {WHAT_PATTERN}\."), _counted),
    (
        re.compile(rf"an? {OBJECT_PATTERN} is ({LEFT_OF}|{ABOVE}) an? {OBJECT_PATTERN}\."),
        Related,
    ),
)
