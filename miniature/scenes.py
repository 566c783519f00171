"""Small scenes with exact truth: coloured shapes on a three by three grid.

Scenes come in themes: a theme prefers a few objects and cells, so that a scene's neighbours share
objects with it. The same seed gives the same bytes.
"""

from __future__ import annotations

import io
import json
import random
from dataclasses import dataclass
from math import cos, pi, sin
from pathlib import Path

from PIL import Image, ImageDraw

from config.digest import image_digest
from miniature.annotations import Annotation, write_annotations, write_if_changed
from miniature.vocabulary import COLOURS, PLACES, SCENE_OBJECTS, SHAPES, SIZES, with_article

SIDE = 160
CELL = SIDE // 3
RADIUS = {"small": 12, "large": 20}
JITTER = 4
PAINT = {
    "red": (206, 44, 38),
    "green": (44, 150, 66),
    "blue": (44, 86, 200),
    "yellow": (232, 204, 48),
    "purple": (132, 60, 168),
    "orange": (238, 134, 36),
}
THEMES = 6
KEEPS_THEME = 0.8
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
    """What is drawn, in reading order, and the seed of its jitter and ground."""

    things: tuple[Thing, ...]
    seed: int

    @property
    def objects(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(thing.name for thing in self.things))

    @property
    def sentences(self) -> tuple[str, ...]:
        return tuple(thing.sentence for thing in self.things)

    def render(self) -> bytes:
        """A PNG of SIDE x SIDE pixels."""
        draw_from = random.Random(self.seed)
        ground = tuple(draw_from.randint(222, 246) for _ in range(3))
        picture = Image.new("RGB", (SIDE, SIDE), ground)
        canvas = ImageDraw.Draw(picture)
        for thing in self.things:
            row, column = divmod(thing.place, 3)
            x = column * CELL + CELL // 2 + draw_from.randint(-JITTER, JITTER)
            y = row * CELL + CELL // 2 + draw_from.randint(-JITTER, JITTER)
            _draw(canvas, thing, x, y)
        out = io.BytesIO()
        picture.save(out, "PNG")
        return out.getvalue()


def _draw(canvas: ImageDraw.ImageDraw, thing: Thing, x: int, y: int) -> None:
    r, paint = RADIUS[thing.size], PAINT[thing.colour]
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


def make_scenes(n: int, seed: int = 0) -> list[Scene]:
    """n scenes of 1 to 5 objects; four fifths of the objects keep to their scene's theme."""
    draw_from = random.Random(seed)
    themes = [draw_from.sample(SCENE_OBJECTS, len(SCENE_OBJECTS) // THEMES) for _ in range(THEMES)]
    return [_scene(draw_from, draw_from.choice(themes)) for _ in range(n)]


def _scene(draw_from: random.Random, theme: list[str]) -> Scene:
    places = sorted(draw_from.sample(range(len(PLACES)), draw_from.randint(1, 5)))
    things = []
    for place in places:
        if draw_from.random() < KEEPS_THEME:
            colour, shape = draw_from.choice(theme).split()
        else:
            colour, shape = draw_from.choice(COLOURS), draw_from.choice(SHAPES)
        things.append(Thing(colour, shape, draw_from.choice(SIZES), place))
    return Scene(tuple(things), draw_from.getrandbits(32))


def write_world(folder: Path, n: int, seed: int = 0) -> list[Annotation]:
    """Writes images, prompts.jsonl and annotations.jsonl; leaves files that are right untouched.

    Each scene is asked for a description, and every other one whether an object is there.
    """
    draw_from = random.Random(seed + 1)
    prompts, annotations = [], []
    for number, scene in enumerate(make_scenes(n, seed)):
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
