"""Small scenes with exact truth: coloured shapes on a three by three grid.

Scenes come in themes: a theme is a palette of two colours and three shapes, prefers some of their
six objects and some cells, so that a scene's neighbours share objects with it. Scenes are numbered
and each is drawn from its number alone: the same number gives the same bytes. The three splits
have numbers of their own; test scenes come in other themes' proportions, and mix their themes more.
"""

from __future__ import annotations

import io
import json
import random
from dataclasses import dataclass
from math import cos, pi, sin
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from config.digest import image_digest
from miniature.annotations import Annotation, write_annotations, write_if_changed
from miniature.vocabulary import COLOURS, PLACES, SCENE_OBJECTS, SHAPES, SIZES, with_article

SIDE = 60
CELL = SIDE // 3
RADIUS = {"small": 5, "large": 8}
JITTER = 2
PAINT = {
    "red": (206, 44, 38),
    "green": (44, 150, 66),
    "blue": (44, 86, 200),
    "yellow": (232, 204, 48),
    "purple": (132, 60, 168),
    "orange": (238, 134, 36),
}
SHADE = 10  # an object's colour is up to this far from its paint, a channel
GRAIN = 6  # and every pixel up to this far from its own colour

# A theme is one of these pairs of colours with one of these triples of shapes.
COLOUR_PAIRS = (("red", "orange"), ("green", "yellow"), ("blue", "purple"))
SHAPE_TRIPLES = (("circle", "square", "triangle"), ("star", "cross", "diamond"))
THEMES = len(COLOUR_PAIRS) * len(SHAPE_TRIPLES)
PREFERENCE = (4, 3, 2, 2, 1, 1)  # how often a theme's objects come, the first most often
HOME_CELLS = ((0, 1, 4), (2, 4, 5), (3, 6, 7), (5, 7, 8), (0, 3, 8), (1, 2, 6))
AT_HOME = 3  # a home cell is taken this many times as often as another one


@dataclass(frozen=True)
class Split:
    """`first`: the number of its first scene. `themes`: the proportions of the themes.

    `keeps_theme`: the share of objects drawn from their scene's theme; the others may be any.
    """

    first: int
    themes: tuple[int, ...]
    keeps_theme: float


SPLIT_SIZE = 1_000_000_000
SEED_SIZE = 1_000_000
SPLITS = {
    "train": Split(0, (2, 1, 2, 1, 2, 1), 0.8),
    "validation": Split(SPLIT_SIZE, (2, 1, 2, 1, 2, 1), 0.8),
    "test": Split(2 * SPLIT_SIZE, (1, 2, 1, 2, 1, 2), 0.6),
}
DESCRIBE = (
    "Describe this picture in detail.",
    "What can you see in the picture?",
    "Provide a thorough description of the given image.",
)


@dataclass(frozen=True)
class Thing:
    """One object of a scene; `place` is the cell's number in reading order."""

    colour: str
    shape: str
    size: str
    place: int

    @property
    def name(self) -> str:
        return f"{self.colour} {self.shape}"

    @property
    def sentence(self) -> str:
        return f"{with_article(self.size).capitalize()} {self.name} is at the {PLACES[self.place]}."


@dataclass(frozen=True)
class Scene:
    """What is drawn, in reading order, and the seed of its jitter, shades and grain.

    `theme` is the number of the theme it was drawn from, None for a scene of one's own.
    """

    things: tuple[Thing, ...]
    seed: int
    theme: int | None = None

    @property
    def objects(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(thing.name for thing in self.things))

    @property
    def sentences(self) -> tuple[str, ...]:
        return tuple(thing.sentence for thing in self.things)

    def picture(self) -> Image.Image:
        """An RGB picture of SIDE x SIDE pixels."""
        draw_from = random.Random(self.seed)
        ground = tuple(draw_from.randint(222, 246) for _ in range(3))
        picture = Image.new("RGB", (SIDE, SIDE), ground)
        canvas = ImageDraw.Draw(picture)
        for thing in self.things:
            row, column = divmod(thing.place, 3)
            x = column * CELL + CELL // 2 + draw_from.randint(-JITTER, JITTER)
            y = row * CELL + CELL // 2 + draw_from.randint(-JITTER, JITTER)
            shade = tuple(
                min(255, max(0, channel + draw_from.randint(-SHADE, SHADE)))
                for channel in PAINT[thing.colour]
            )
            _draw(canvas, thing, x, y, shade)
        grain = np.random.default_rng(self.seed).integers(
            -GRAIN, GRAIN + 1, (SIDE, SIDE, 3), dtype=np.int16
        )
        return Image.fromarray(np.clip(np.asarray(picture) + grain, 0, 255).astype(np.uint8))

    def render(self) -> bytes:
        """The picture as a PNG."""
        out = io.BytesIO()
        self.picture().save(out, "PNG", compress_level=1)
        return out.getvalue()


def _draw(
    canvas: ImageDraw.ImageDraw, thing: Thing, x: int, y: int, paint: tuple[int, ...]
) -> None:
    r = RADIUS[thing.size]
    if thing.shape == "circle":
        canvas.ellipse((x - r, y - r, x + r, y + r), fill=paint)
    elif thing.shape == "square":
        canvas.rectangle((x - r, y - r, x + r, y + r), fill=paint)
    elif thing.shape == "triangle":
        canvas.polygon([(x, y - r), (x + r, y + r), (x - r, y + r)], fill=paint)
    elif thing.shape == "diamond":
        canvas.polygon([(x, y - r), (x + r, y), (x, y + r), (x - r, y)], fill=paint)
    elif thing.shape == "cross":
        arm = r // 3
        canvas.rectangle((x - r, y - arm, x + r, y + arm), fill=paint)
        canvas.rectangle((x - arm, y - r, x + arm, y + r), fill=paint)
    else:
        canvas.polygon(_star(x, y, r), fill=paint)


def _star(x: int, y: int, r: int) -> list[tuple[float, float]]:
    points = []
    for corner in range(10):
        reach = r if corner % 2 == 0 else r * 0.42
        angle = pi * corner / 5 - pi / 2
        points.append((x + reach * cos(angle), y + reach * sin(angle)))
    return points


def theme_objects(theme: int) -> tuple[str, ...]:
    """The six objects of a theme (0 to THEMES - 1), the most frequent one first."""
    pair, triple = divmod(theme, len(SHAPE_TRIPLES))
    names = [
        f"{colour} {shape}" for shape in SHAPE_TRIPLES[triple] for colour in COLOUR_PAIRS[pair]
    ]
    return (*names[theme:], *names[:theme])


def make_scenes(n: int, seed: int = 0, split: str = "train") -> list[Scene]:
    """n scenes of 1 to 5 objects; more of the same seed begin with the same ones.

    Scenes of two splits, or of two seeds, have no number in common. Raises ValueError where the
    split is unknown, or n or the seed exceeds the numbers there are.
    """
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}; expected one of {', '.join(SPLITS)}")
    if not 0 <= n <= SEED_SIZE or not 0 <= seed < SPLIT_SIZE // SEED_SIZE:
        raise ValueError(
            f"{n} scenes of seed {seed}; expected at most {SEED_SIZE} "
            f"and a seed below {SPLIT_SIZE // SEED_SIZE}"
        )
    first = SPLITS[split].first + seed * SEED_SIZE
    return [_scene(number, SPLITS[split]) for number in range(first, first + n)]


def _scene(number: int, split: Split) -> Scene:
    draw_from = random.Random(number)
    theme = draw_from.choices(range(THEMES), split.themes)[0]
    things = []
    for place in sorted(_places(theme, draw_from.randint(1, 5), draw_from)):
        if draw_from.random() < split.keeps_theme:
            colour, shape = draw_from.choices(theme_objects(theme), PREFERENCE)[0].split()
        else:
            colour, shape = draw_from.choice(COLOURS), draw_from.choice(SHAPES)
        things.append(Thing(colour, shape, draw_from.choice(SIZES), place))
    return Scene(tuple(things), number, theme)


def _places(theme: int, n: int, draw_from: random.Random) -> list[int]:
    free, taken = list(range(len(PLACES))), []
    for _ in range(n):
        weights = [AT_HOME if place in HOME_CELLS[theme] else 1 for place in free]
        taken.append(draw_from.choices(free, weights)[0])
        free.remove(taken[-1])
    return taken


def write_world(folder: Path, n: int, seed: int = 0, split: str = "train") -> list[Annotation]:
    """Writes images, prompts.jsonl and annotations.jsonl; leaves files that are right untouched.

    Each scene is asked for a description, and every other one whether an object is there.
    """
    draw_from = random.Random(seed + 1)
    prompts, annotations = [], []
    for number, scene in enumerate(make_scenes(n, seed, split)):
        data = scene.render()
        name = f"scene-{number:05d}"
        write_if_changed(folder / "images" / f"{name}.png", data)
        annotations.append(Annotation(image_digest(data), scene.sentences, scene.objects))
        asked = [draw_from.choice(DESCRIBE)]
        if number % 2:
            present = draw_from.random() < 0.5
            thing = draw_from.choice(scene.objects if present else SCENE_OBJECTS)
            asked.append(f"Is there {with_article(thing)} in the picture?")
        for item, prompt in enumerate(asked):
            line = {"id": f"{name}-{item}", "image": f"images/{name}.png", "prompt": prompt}
            prompts.append(json.dumps(line) + "\n")
    write_if_changed(folder / "prompts.jsonl", "".join(prompts).encode())
    write_annotations(folder / "annotations.jsonl", annotations)
    return annotations
