"""Scores of answers against the scenes they are about. Pure.

CHAIR is that of Rohrbach et al. 2018 ("Object Hallucination in Image Captioning"), with the exact
truth of the scene in the place of annotated objects.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from miniature.language import Claim, Seen, holds, names_told, parse
from miniature.questions import DESCRIPTIONS, Question, facts, question_of
from miniature.scenes import Scene


@dataclass(frozen=True, slots=True)
class Scores:
    """All in percent; None where no text could show it.

    chair_s: descriptions that name at least one object which is not there.
    chair_i: named objects that are not there, of all that are named (each once a description).
    coverage: objects of the scenes that their descriptions name.
    exact: descriptions that tell of every thing and nothing else, with size and place.
    yes_no: yes/no questions answered rightly. others: the same for all other questions.
    """

    chair_s: float | None
    chair_i: float | None
    coverage: float | None
    exact: float | None
    yes_no: float | None
    others: float | None = None


def score(
    texts: Sequence[str], scenes: Sequence[Scene], prompts: Sequence[str] | None = None
) -> Scores:
    """Scores texts, each about the scene at its index.

    With `prompts`, the answers to questions count as such and all others as descriptions; without,
    every text is a description. Raises ValueError where the numbers of texts differ.
    """
    if len(texts) != len(scenes) or (prompts is not None and len(prompts) != len(texts)):
        given = "no" if prompts is None else len(prompts)
        raise ValueError(
            f"{len(texts)} texts, {len(scenes)} scenes and {given} prompts; "
            "expected one scene (and prompt) for each text"
        )
    questions = [None] * len(texts) if prompts is None else [question_of(p) for p in prompts]
    described: list[tuple[list[Claim], Scene]] = []
    right: dict[bool, list[bool]] = {True: [], False: []}
    for text, scene, question in zip(texts, scenes, questions, strict=True):
        if question is None or question.kind in DESCRIPTIONS:
            described.append((parse(text), scene))
        else:
            right[question.kind == "yes_no"].append(is_right(text, question, scene))
    return _with_questions(described, right)


def is_right(text: str, question: Question, scene: Scene) -> bool:
    """Whether a text states exactly the facts that answer the question, in any order."""
    told = Counter(claim.fact for claim in parse(text))
    return told == Counter(facts(question, scene.things))


def hallucinated(text: str, scene: Scene) -> tuple[str, ...]:
    """The objects a text says are there and are not, each once."""
    return tuple(name for name in names_told(parse(text)) if name not in scene.objects)


def is_exact(claims: Sequence[Claim], scene: Scene) -> bool:
    """Whether a description tells of every thing once, and all else that it says is true."""
    seen = Counter(claim.fact.thing for claim in claims if isinstance(claim.fact, Seen))
    return seen == Counter(scene.things) and all(
        claim.fact is not None and holds(claim.fact, scene.things) for claim in claims
    )


def _with_questions(
    described: Sequence[tuple[list[Claim], Scene]], right: dict[bool, list[bool]]
) -> Scores:
    named = wrong = with_wrong = covered = objects = exact = 0
    for claims, scene in described:
        names = set(names_told(claims))
        absent = names - set(scene.objects)
        named += len(names)
        wrong += len(absent)
        with_wrong += bool(absent)
        covered += len(names & set(scene.objects))
        objects += len(scene.objects)
        exact += is_exact(claims, scene)
    return Scores(
        chair_s=_percent(with_wrong, len(described)),
        chair_i=_percent(wrong, named),
        coverage=_percent(covered, objects),
        exact=_percent(exact, len(described)),
        yes_no=_percent(sum(right[True]), len(right[True])),
        others=_percent(sum(right[False]), len(right[False])),
    )


def _percent(part: int, whole: int) -> float | None:
    return 100 * part / whole if whole else None
