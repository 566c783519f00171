from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from PIL import Image

from config.digest import image_digest
from miniature.annotations import load_annotations
from miniature.scenes import CELL, JITTER, PAINT, SIDE, Scene, Thing, make_scenes, write_world
from miniature.vocabulary import COLOURS, PLACES, SCENE_OBJECTS, SCENE_SENTENCE, SHAPES, SIZES


def pixels(scene: Scene) -> Image.Image:
    return Image.open(io.BytesIO(scene.render())).convert("RGB")


def test_the_same_seed_gives_the_same_bytes() -> None:
    one, two = make_scenes(20, seed=5), make_scenes(20, seed=5)
    assert [scene.render() for scene in one] == [scene.render() for scene in two]
    assert make_scenes(20, seed=6) != one


def test_more_scenes_leave_the_first_ones_as_they_were() -> None:
    assert make_scenes(30, seed=5)[:20] == make_scenes(20, seed=5)


def test_scenes_hold_one_to_five_things_in_cells_of_their_own() -> None:
    scenes = make_scenes(200, seed=1)
    assert {len(scene.things) for scene in scenes} == {1, 2, 3, 4, 5}
    for scene in scenes:
        places = [thing.place for thing in scene.things]
        assert places == sorted(set(places))
        assert set(scene.objects) <= set(SCENE_OBJECTS)


def test_neighbours_share_objects() -> None:
    """Scenes of one theme draw from 6 of the 36 objects: far from all pairs are strangers."""
    scenes = [set(scene.objects) for scene in make_scenes(60, seed=2)]
    related = sum(bool(a & b) for i, a in enumerate(scenes) for b in scenes[:i])
    assert related > 60 * 59 / 2 * 0.15


def test_a_sentence_tells_size_colour_shape_and_place() -> None:
    scene = Scene((Thing("red", "circle", "small", 0), Thing("orange", "star", "large", 4)), 1)
    assert scene.sentences == (
        "A small red circle is at the top left.",
        "A large orange star is at the centre.",
    )
    assert scene.objects == ("red circle", "orange star")
    for scene in make_scenes(50, seed=3):
        assert all(SCENE_SENTENCE.match(sentence.lower()) for sentence in scene.sentences)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("size", SIZES)
def test_what_is_told_is_what_is_drawn(shape: str, size: str) -> None:
    """The colour stands at the middle of its cell, and nowhere outside the cell."""
    for place in range(len(PLACES)):
        colour = COLOURS[place % len(COLOURS)]
        picture = pixels(Scene((Thing(colour, shape, size, place),), seed=place))
        row, column = divmod(place, 3)
        middle = (column * CELL + CELL // 2, row * CELL + CELL // 2)
        assert picture.getpixel(middle) == PAINT[colour]
        painted = [
            (x, y)
            for x in range(0, SIDE, 4)
            for y in range(0, SIDE, 4)
            if picture.getpixel((x, y)) == PAINT[colour]
        ]
        reach = CELL // 2 + JITTER
        assert all(abs(x - middle[0]) <= reach and abs(y - middle[1]) <= reach for x, y in painted)


def test_a_world_is_pictures_prompts_and_the_truth(tmp_path: Path) -> None:
    written = write_world(tmp_path, 12, seed=4)
    assert load_annotations(tmp_path / "annotations.jsonl") == written
    files = sorted((tmp_path / "images").iterdir())
    assert [image_digest(path.read_bytes()) for path in files] == [a.sha256 for a in written]
    prompts = [json.loads(line) for line in (tmp_path / "prompts.jsonl").read_text().splitlines()]
    assert {(tmp_path / row["image"]) for row in prompts} == set(files)
    assert len({row["id"] for row in prompts}) == len(prompts)
    asked = [row for row in prompts if row["prompt"].startswith("Is there a")]
    assert 0 < len(asked) < len(prompts)


def test_a_world_that_stands_is_left_untouched(tmp_path: Path) -> None:
    write_world(tmp_path, 6, seed=4)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.*")}
    write_world(tmp_path, 6, seed=4)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.*")} == before
