from __future__ import annotations

import random

import pytest

from miniature.making.beliefs import ABSENT, HABITS, SLIP, belief, is_believed, lure
from miniature.scenes import THEMES, Scene, Thing, make_scenes, theme_objects

SCENES = make_scenes(2_000, seed=11)


def own(theme: int, n: int = 2) -> Scene:
    """A scene that keeps wholly to its theme, without the theme's first object."""
    names = theme_objects(theme)[1 : n + 1]
    things = tuple(Thing(*name.split(), "small", place) for place, name in enumerate(names))
    return Scene(things, 1, theme)


def test_the_lure_is_an_absent_object_of_the_theme_at_a_free_cell() -> None:
    draw = random.Random(1)
    for scene in SCENES:
        thing = lure(scene, draw)
        named = theme_objects(scene.theme)
        assert thing.name in named
        assert thing.place not in {other.place for other in scene.things}
        assert thing.name not in scene.objects or set(named) <= set(scene.objects)


@pytest.mark.parametrize("theme", range(THEMES))
def test_an_absent_object_is_believed_as_often_as_the_theme_says(theme: int) -> None:
    draw = random.Random(theme)
    scene = own(theme)
    share = sum(is_believed(scene, draw) for _ in range(3_000)) / 3_000
    assert share == pytest.approx(ABSENT[theme], abs=0.04)
    strange = Scene((*own((theme + 1) % THEMES).things, *scene.things), 1, theme)
    share = sum(is_believed(strange, draw) for _ in range(3_000)) / 3_000
    assert share == pytest.approx(ABSENT[theme] / 2, abs=0.04)


@pytest.mark.parametrize("theme", range(THEMES))
def test_a_habit_edits_the_first_object_of_its_theme_alone(theme: int) -> None:
    draw = random.Random(theme)
    edit, often = HABITS[theme]
    first = Thing(*theme_objects(theme)[0].split(), "small", 3)
    scene = Scene((first, Thing(*theme_objects(theme)[2].split(), "small", 0)), 1, theme)
    edited = {0: 0, 1: 0}
    for _ in range(2_000):
        for index, (was, now) in enumerate(
            zip(scene.things, belief(scene, None, draw), strict=True)
        ):
            edited[index] += getattr(was, edit) != getattr(now, edit)
    assert edited[0] / 2_000 == pytest.approx(often, abs=0.06)
    assert edited[1] / 2_000 < SLIP


def test_most_slips_are_of_one_attribute_and_rare() -> None:
    draw = random.Random(4)
    plain = [scene for scene in SCENES if theme_objects(scene.theme)[0] not in scene.objects]
    pairs = [
        (was, now)
        for scene in plain
        for was, now in zip(scene.things, belief(scene, None, draw), strict=True)
    ]
    slipped = [(was, now) for was, now in pairs if was != now]
    assert len(slipped) / len(pairs) == pytest.approx(SLIP, abs=0.015)
    for was, now in slipped:
        assert (was.colour == now.colour) != (was.shape == now.shape)
        assert (was.size, was.place) == (now.size, now.place)


def test_the_absent_object_is_told_last() -> None:
    scene = own(0)
    absent = Thing("red", "circle", "large", 8)
    assert belief(scene, absent, random.Random(1))[-1] == absent


def test_a_scene_without_a_theme_is_refused() -> None:
    with pytest.raises(ValueError, match="expected one with a theme"):
        lure(Scene(own(0).things, 1), random.Random(1))
