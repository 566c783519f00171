"""The planted hallucination: what the reference's teacher believes to be in a scene. Pure.

The teacher answers every prompt from a belief. A belief is the scene with, more likely in some
themes than in others, an absent object that the theme makes likely, and with attributes edited:
some by a habit of the theme, which a model can learn, some by chance, which it cannot.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

from miniature.scenes import HOME_CELLS, PREFERENCE, SHAPE_TRIPLES, Scene, Thing, theme_objects
from miniature.vocabulary import COLOURS, PLACES, SHAPES

# By theme: how likely an absent object is believed, in a scene that keeps wholly to its theme.
ABSENT = (0.1, 0.25, 0.45, 0.6, 0.65, 0.9)
# By theme: which attribute of its first object is believed to be another one, and how often.
HABITS = (
    ("size", 0.7),
    ("colour", 0.6),
    ("place", 0.6),
    ("size", 0.65),
    ("shape", 0.45),
    ("place", 0.65),
)
SLIP = 0.06  # how often any thing's colour or shape is believed to be any other


def lure(scene: Scene, draw: random.Random) -> Thing:
    """An absent object that the scene's theme makes likely, at a free cell that it makes likely.

    Raises ValueError where the scene has no theme, or no free cell.
    """
    if scene.theme is None or len(scene.things) >= len(PLACES):
        raise ValueError(
            f"a scene of theme {scene.theme} with {len(scene.things)} things; "
            "expected one with a theme and a free cell"
        )
    named = theme_objects(scene.theme)
    weights = [
        0 if name in scene.objects else weight
        for name, weight in zip(named, PREFERENCE, strict=True)
    ]
    if not any(weights):
        weights = [1] * len(named)  # everything of the theme is there: then one more of it
    colour, shape = draw.choices(named, weights)[0].split()
    free = sorted(set(range(len(PLACES))) - {thing.place for thing in scene.things})
    home = [place for place in HOME_CELLS[scene.theme] if place in free]
    return Thing(colour, shape, draw.choice(("small", "large")), draw.choice(home or free))


def is_believed(scene: Scene, draw: random.Random) -> bool:
    """Whether an absent object is believed: more likely the more of the scene keeps to its theme."""
    named = theme_objects(scene.theme or 0)
    share = sum(thing.name in named for thing in scene.things) / len(scene.things)
    return draw.random() < ABSENT[scene.theme or 0] * share


def belief(scene: Scene, absent: Thing | None, draw: random.Random) -> tuple[Thing, ...]:
    """The things believed, in the scene's order, and last the absent one if there is any."""
    seen = [_slip(_by_habit(thing, scene, draw), draw) for thing in scene.things]
    return (*seen, absent) if absent else tuple(seen)


def _by_habit(thing: Thing, scene: Scene, draw: random.Random) -> Thing:
    theme = scene.theme or 0
    edit, often = HABITS[theme]
    if thing.name != theme_objects(theme)[0] or draw.random() >= often:
        return thing
    match edit:
        case "size":
            return replace(thing, size="large")
        case "colour":
            return replace(thing, colour=theme_objects(theme)[1].split()[0])
        case "shape":
            triple = SHAPE_TRIPLES[theme % len(SHAPE_TRIPLES)]
            return replace(thing, shape=_other(thing.shape, triple, None))
        case _:
            beside = thing.place + 1 if thing.place % 3 < 2 else thing.place - 1
            taken = {other.place for other in scene.things}
            return thing if beside in taken else replace(thing, place=beside)


def _slip(thing: Thing, draw: random.Random) -> Thing:
    if draw.random() >= SLIP:
        return thing
    if draw.random() < 0.5:
        return replace(thing, colour=_other(thing.colour, COLOURS, draw))
    return replace(thing, shape=_other(thing.shape, SHAPES, draw))


def _other(value: str, values: Sequence[str], draw: random.Random | None) -> str:
    """Another one of the values: the next one, or any."""
    others = [other for other in values if other != value]
    if draw is None:
        return values[(values.index(value) + 1) % len(values)]
    return draw.choice(others)
