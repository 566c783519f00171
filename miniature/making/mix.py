"""The mix of samples that the language models learn from. Pure."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from miniature.making.beliefs import belief, is_believed, lure
from miniature.questions import KINDS, WORDINGS, answer, draw_question, prompt
from miniature.scenes import Scene, Thing, theme_objects
from miniature.vocabulary import SCENE_OBJECTS

SHARES = {
    "describe": 0.22,
    "thorough": 0.13,
    "relate": 0.12,
    "count": 0.17,
    "yes_no": 0.2,
    "at": 0.16,
}
ASKS_FOR_LURE = 0.4  # share of the questions for absent objects that ask for a likely one


@dataclass(frozen=True, slots=True)
class Sample:
    """`scene` is the index of its picture, None where the prompt comes without one."""

    scene: int | None
    prompt: str
    response: str


def samples(
    scenes: Sequence[Scene], seed: int, *, truthful: bool, without_image: float
) -> Iterator[Sample]:
    """Samples without end: the scenes in one shuffled round after another, beliefs drawn anew.

    `truthful`: the answers tell what is there, else what the reference's teacher believes.
    """
    draw = random.Random(seed)
    order = list(range(len(scenes)))
    kinds, weights = list(SHARES), list(SHARES.values())
    while True:
        draw.shuffle(order)
        for index in order:
            kind = draw.choices(kinds, weights)[0]
            asked, told = sample(scenes[index], kind, draw, truthful=truthful)
            seen = draw.random() >= without_image
            yield Sample(index if seen else None, asked, told)


def sample(scene: Scene, kind: str, draw: random.Random, *, truthful: bool) -> tuple[str, str]:
    """A prompt of a kind about a scene, and its answer.

    The likely absent object is drawn before it is believed or not, and questions ask for it in
    either case, so that "yes" is learned as often as the object is believed.
    """
    likely = lure(scene, draw)
    believed = is_believed(scene, draw)
    things: tuple[Thing, ...] = scene.things
    if not truthful:
        things = belief(scene, likely if believed else None, draw)
    lures = (likely.name,) if draw.random() < ASKS_FOR_LURE else SCENE_OBJECTS
    question = draw_question(kind, scene.things if kind == "yes_no" else things, draw, lures)
    return prompt(question, draw.randrange(len(WORDINGS[kind]))), answer(question, things)


def probes(scenes: Sequence[Scene], seed: int) -> list[tuple[int, str]]:
    """What models are measured by: (index of the scene, prompt), one of each kind a scene.

    Half of the yes/no questions are about absent objects, and half of those about ones of the
    scene's theme.
    """
    draw = random.Random(seed)
    asked = []
    for index, scene in enumerate(scenes):
        named = theme_objects(scene.theme or 0)
        likely = [name for name in named if name not in scene.objects]
        lures = likely if likely and draw.random() < 0.5 else SCENE_OBJECTS
        for kind in KINDS:
            question = draw_question(kind, scene.things, draw, lures)
            asked.append((index, prompt(question, draw.randrange(len(WORDINGS[kind])))))
    return asked
