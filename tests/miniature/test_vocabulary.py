from __future__ import annotations

import pytest

from miniature.vocabulary import SCENE_OBJECTS, mentions, objects_named, with_article


def test_every_colour_is_paired_with_every_shape() -> None:
    assert len(set(SCENE_OBJECTS)) == 36


@pytest.mark.parametrize(
    ("name", "expected"),
    [("umbrella", "an umbrella"), ("orange star", "an orange star"), ("dog", "a dog")],
)
def test_the_article_fits_the_name(name: str, expected: str) -> None:
    assert with_article(name) == expected


@pytest.mark.parametrize(
    ("sentence", "expected"),
    [
        ("A hot dog lies on the dining table.", ["hot dog", "dining table"]),
        ("Two dogs and a dog.", ["dog"]),
        ("A small orange circle is at the centre.", ["orange circle"]),
        ("An orange and an apple.", ["orange", "apple"]),
        ("There is also a quokka in the picture.", ["quokka"]),
        ("There is no pangolin.", ["pangolin"]),
        ("The carpet is worn.", []),
    ],
)
def test_objects_are_named_in_order_once(sentence: str, expected: list[str]) -> None:
    assert objects_named(sentence) == expected


def test_an_object_is_mentioned_as_whole_words_alone() -> None:
    assert mentions("Three Buses wait.", "bus")
    assert not mentions("A scarf on a carpet.", "car")
