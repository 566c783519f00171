from __future__ import annotations

import io
import itertools
import json
from pathlib import Path

import pytest
from PIL import Image

from config.digest import image_digest
from miniature.annotations import load_annotations
from miniature.scenes import (
    CELL,
    GRAIN,
    JITTER,
    PAINT,
    SHADE,
    SIDE,
    SPLITS,
    THEMES,
    Scene,
    Thing,
    make_scenes,
    theme_objects,
    write_world,
)
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
    """Scenes of one theme draw mostly from 6 of the 36 objects: many pairs are no strangers."""
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
    """The colour stands near the middle of its cell, and nowhere outside the cell."""
    for place in range(len(PLACES)):
        colour = COLOURS[place % len(COLOURS)]
        picture = pixels(Scene((Thing(colour, shape, size, place),), seed=place))
        row, column = divmod(place, 3)
        middle = (column * CELL + CELL // 2, row * CELL + CELL // 2)
        painted = [
            (x, y) for x in range(SIDE) for y in range(SIDE) if is_painted(picture, (x, y), colour)
        ]
        reach = CELL // 2
        distances = [max(abs(x - middle[0]), abs(y - middle[1])) for x, y in painted]
        assert min(distances) <= JITTER
        assert max(distances) <= reach


def is_painted(picture: Image.Image, at: tuple[int, int], colour: str) -> bool:
    found = picture.getpixel(at)
    return all(abs(a - b) <= SHADE + GRAIN for a, b in zip(found, PAINT[colour], strict=True))


def test_the_paints_stay_apart_under_shade_and_grain() -> None:
    for one, two in itertools.combinations(PAINT.values(), 2):
        assert max(abs(a - b) for a, b in zip(one, two, strict=True)) > 2 * (SHADE + GRAIN)


def test_the_splits_share_no_scene_and_differ_in_their_themes() -> None:
    splits = {split: make_scenes(600, seed=2, split=split) for split in SPLITS}
    numbers = [{scene.seed for scene in scenes} for scenes in splits.values()]
    assert not numbers[0] & numbers[1] | numbers[0] & numbers[2] | numbers[1] & numbers[2]
    often = {
        split: sum(scene.theme in (1, 3, 5) for scene in scenes) / 600
        for split, scenes in splits.items()
    }
    assert often["train"] < 0.45
    assert often["validation"] < 0.45
    assert often["test"] > 0.55


def test_the_themes_divide_the_objects() -> None:
    listed = [name for theme in range(THEMES) for name in theme_objects(theme)]
    assert sorted(listed) == sorted(SCENE_OBJECTS)


def test_an_unknown_split_and_too_large_a_seed_are_refused() -> None:
    with pytest.raises(ValueError, match="expected one of train, validation, test"):
        make_scenes(1, split="eval")
    with pytest.raises(ValueError, match="a seed below 1000"):
        make_scenes(1, seed=1000)


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
