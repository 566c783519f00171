"""The rules by which the stand-in models answer: pure, and the same on every machine.

Captioner: everything the annotation says. Reference: some of it, with objects planted that are not
in the picture. Claims (extract, rewrite): reads nothing but the data block of the request.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Any

from miniature.annotations import Annotation
from miniature.vocabulary import (
    PHOTO_OBJECTS,
    SCENE_OBJECTS,
    SCENE_SENTENCE,
    mentions,
    objects_named,
    with_article,
)

RIGHT_YES_NO = 0.7  # share of yes/no questions the reference model answers rightly
PLANTED = (0, 1, 1, 2)  # how many absent objects an answer names, drawn by seed
LENGTH_RATIO = 1.5  # a rewritten text is at most this much longer than the other one

_YES_NO = re.compile(
    r"^\s*(?:is|are) there (?:an? |any |some )?(.+?)(?: in (?:the|this) \w+)?\s*\?", re.IGNORECASE
)
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+")
_SPACE = re.compile(r"\s+")
_WORD = re.compile(r"[a-z]{3,}")
_NEGATION = re.compile(r"\bthere (?:is|are) no\b|\bthere (?:isn't|aren't)\b", re.IGNORECASE)
_EMPTY_WORDS = frozenset(
    [
        "the",
        "and",
        "with",
        "that",
        "this",
        "from",
        "into",
        "there",
        "are",
        "has",
        "have",
        "its",
        "his",
        "her",
    ]
)


class UnknownImage(LookupError):
    """The image is not among the annotations."""


class AnswerBook:
    """The captioner and the reference model over a set of annotated images."""

    def __init__(self, annotations: Iterable[Annotation]) -> None:
        self._by_digest: dict[str, Annotation] = {}
        names: set[str] = set()
        for annotation in annotations:
            for sha256 in (annotation.sha256, *annotation.aliases):
                self._by_digest[sha256] = annotation
            names.update(annotation.objects)
        scenes = bool(names) and names <= set(SCENE_OBJECTS)
        self._vocabulary = SCENE_OBJECTS if scenes else tuple(sorted(names | set(PHOTO_OBJECTS)))
        self._absent: dict[str, list[str]] = {}

    def caption(self, sha256: str) -> str:
        """A caption that says all that is known of the image. Raises UnknownImage."""
        annotation = self._annotation(sha256)
        sentences = [as_sentence(caption) for caption in annotation.captions]
        if annotation.objects:
            listed = ", ".join(with_article(name) for name in annotation.objects)
            sentences.append(f"The picture contains: {listed}.")
        return " ".join(sentences)

    def reference(self, sha256: str, prompt: str, seed: int) -> str:
        """An answer to `prompt`: true sentences, then 0 to 2 about absent objects.

        Reproducible by (image, prompt, seed). Raises UnknownImage.
        """
        annotation = self._annotation(sha256)
        draw = random.Random(f"{annotation.sha256}\n{prompt}\n{seed}")
        asked = yes_no_object(prompt)
        if asked is not None:
            present = asked in annotation.objects or mentions(" ".join(annotation.captions), asked)
            says_yes = present == (draw.random() < RIGHT_YES_NO)
            thing = with_article(asked)
            if says_yes:
                return f"Yes, there is {thing} in the picture."
            return f"No, there is no {asked} in the picture."
        sentences = self._true_sentences(annotation, draw)
        for name in draw.sample(self._absent_from(annotation), draw.choice(PLANTED)):
            sentences.append(f"There is also {with_article(name)} in the picture.")
        return " ".join(sentences)

    def _annotation(self, sha256: str) -> Annotation:
        try:
            return self._by_digest[sha256]
        except KeyError:
            raise UnknownImage(f"image {sha256} is not among the annotations") from None

    def _true_sentences(self, annotation: Annotation, draw: random.Random) -> list[str]:
        captions = [as_sentence(caption) for caption in annotation.captions]
        if not captions:
            return [f"There is {with_article(name)} in the picture." for name in annotation.objects]
        if not SCENE_SENTENCE.match(captions[0].lower()):
            return [draw.choice(captions)]  # each of a photograph's captions tells the whole
        kept = draw.sample(range(len(captions)), draw.randint(1, len(captions)))
        return [captions[index] for index in sorted(kept)]

    def _absent_from(self, annotation: Annotation) -> list[str]:
        absent = self._absent.get(annotation.sha256)
        if absent is None:
            text = " ".join((*annotation.captions, *annotation.objects))
            absent = [name for name in self._vocabulary if not mentions(text, name)]
            self._absent[annotation.sha256] = absent
        return absent


def as_sentence(text: str) -> str:
    """One line with a capital at the start and a full stop at the end."""
    line = _SPACE.sub(" ", text).strip()
    if line and line[-1] not in ".!?":
        line += "."
    return line[:1].upper() + line[1:]


def yes_no_object(prompt: str) -> str | None:
    """The object a yes/no question asks for, in lower case; None for any other prompt."""
    match = _YES_NO.match(prompt)
    return match.group(1).lower() if match else None


def extract(data: dict[str, Any]) -> dict[str, Any]:
    """Claims of all answers with verdicts against the caption.

    `data` is {"question", "caption", "answers": [{"number", "text"}]}. Each distinct sentence is a
    claim. Raises KeyError or TypeError where `data` has another form.
    """
    caption = _plain(data["caption"])
    claims: dict[str, dict[str, Any]] = {}
    for answer in data["answers"]:
        for sentence in _SENTENCE_END.split(answer["text"].strip()):
            claim = _standing_alone(sentence)
            if not claim:
                continue
            known = claims.get(claim.lower())
            if known is None:
                verdict, evidence = judge(claim, caption)
                known = {"claim": claim, "verdict": verdict, "answers": [], "evidence": evidence}
                claims[claim.lower()] = known
            if answer["number"] not in known["answers"]:
                known["answers"].append(answer["number"])
    return {"claims": list(claims.values())}


@lru_cache(maxsize=4096)
def judge(claim: str, caption: str) -> tuple[str, str]:
    """(verdict, evidence) of one sentence against a caption in lower case on one line.

    Consistent: the caption holds the sentence, or names all its objects. Inconsistent: it names an
    object that the caption does not, or denies one that it does, or places a scene's object
    elsewhere. Unverifiable: no object, and words that the caption does not hold.
    """
    plain = _plain(claim)
    if plain in caption:
        return "consistent", plain
    if SCENE_SENTENCE.match(plain):
        return "inconsistent", ""
    named = objects_named(plain)
    if named:
        missing = [name for name in named if not mentions(caption, name)]
        if _NEGATION.search(plain):
            return ("inconsistent", named[0]) if not missing else ("consistent", "")
        return ("inconsistent", "") if missing else ("consistent", ", ".join(named))
    words = set(_WORD.findall(plain)) - _EMPTY_WORDS
    if words and words <= set(_WORD.findall(caption)):
        return "consistent", ""
    return "unverifiable", ""


def rewrite(data: dict[str, Any]) -> dict[str, str | None]:
    """Two answers in one style from {"question", "consistent", "inconsistent"}; None where empty.

    The side with more words gives up its last claims until it is at most LENGTH_RATIO times the
    other. Raises KeyError or TypeError where `data` has another form.
    """
    chosen, rejected = list(data["consistent"]), list(data["inconsistent"])
    if chosen and rejected:
        chosen, rejected = _trimmed(chosen, rejected), _trimmed(rejected, chosen)
    yes_no = yes_no_object(data["question"]) is not None
    return {"chosen": _joined(chosen, yes_no), "rejected": _joined(rejected, yes_no)}


def _plain(text: str) -> str:
    return _SPACE.sub(" ", text).strip().lower()


def _standing_alone(sentence: str) -> str:
    """The sentence without "Yes," or "also", which lean on the question or on what went before."""
    alone = re.sub(r"^(?:yes|no)\s*[,.!]\s*", "", sentence.strip(), flags=re.IGNORECASE)
    alone = re.sub(r"^there (is|are) also\b", r"There \1", alone, flags=re.IGNORECASE)
    return as_sentence(alone)


def _trimmed(claims: list[str], other: list[str]) -> list[str]:
    room = LENGTH_RATIO * sum(len(claim.split()) for claim in other)
    kept = claims[:1]
    for claim in claims[1:]:
        if sum(len(text.split()) for text in (*kept, claim)) > room:
            break
        kept.append(claim)
    return kept


def _joined(claims: list[str], yes_no: bool) -> str | None:
    if not claims:
        return None
    text = " ".join(as_sentence(claim) for claim in claims)
    if yes_no:
        return f"{'No' if _NEGATION.search(claims[0]) else 'Yes'}, {text[:1].lower()}{text[1:]}"
    return text
