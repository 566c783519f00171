"""Preprocessing agrees with the libraries the models come from, pixel by pixel."""

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from config.errors import RecipeError, RowError
from models.preprocessing import Preprocessing, square, triple

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.5)
CLIP_LIKE = Preprocessing("shortest", 32, 32, "even", "bicubic", 1 / 255, MEAN, STD)
DINO_LIKE = Preprocessing("shortest", 37, 28, "down", "bicubic", 1 / 255, MEAN, STD)


def noise(width, height, seed=0):
    values = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values)


def by_open_clip(image, resize_mode, interpolation):
    from open_clip.transform import PreprocessCfg, image_transform_v2

    config = PreprocessCfg(
        size=32, mean=MEAN, std=STD, resize_mode=resize_mode, interpolation=interpolation
    )
    return image_transform_v2(config, is_train=False)(image).numpy()


def by_transformers(image):
    from transformers.models.bit.image_processing_pil_bit import BitImageProcessorPil

    processor = BitImageProcessorPil(
        size={"shortest_edge": 37},
        crop_size={"height": 28, "width": 28},
        image_mean=list(MEAN),
        image_std=list(STD),
    )
    return processor(image, return_tensors="np")["pixel_values"][0]


SIZES = [(32, 32), (64, 48), (41, 97), (300, 33), (7, 9), (33, 100), (35, 36)]


@pytest.mark.parametrize(("width", "height"), SIZES)
@pytest.mark.parametrize("mode", ["shortest", "squash"])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_the_input_is_open_clips(width, height, mode, interpolation):
    image = noise(width, height)
    ours = replace(CLIP_LIKE, resize=mode, interpolation=interpolation).pixels(image)
    np.testing.assert_allclose(ours, by_open_clip(image, mode, interpolation), atol=2e-6)


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_the_input_is_transformers(width, height):
    image = noise(width, height)
    np.testing.assert_allclose(DINO_LIKE.pixels(image), by_transformers(image), atol=2e-6)


def test_a_plain_colour_by_hand():
    found = CLIP_LIKE.pixels(Image.new("RGB", (50, 40), (255, 0, 51)))
    assert found.dtype == np.float32
    assert found.shape == (3, 32, 32)
    # (1 - .5) / .2 = 2.5, (0 - .4) / .25 = -1.6, (.2 - .3) / .5 = -.2
    np.testing.assert_allclose(found[:, 0, 0], [2.5, -1.6, -0.2], atol=1e-6)
    assert np.ptp(found, axis=(1, 2)).max() == 0


def test_half_a_pixel_is_rounded_as_each_library_does():
    # 35 x 32: three columns to spare, 1.5 on each side: 2 by torchvision, 1 by transformers.
    columns = np.repeat(np.arange(35, dtype=np.uint8)[None, :, None], 32, axis=0)
    image = Image.fromarray(np.repeat(columns, 3, axis=2))
    plain = replace(CLIP_LIKE, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0), rescale=1.0)
    assert plain.pixels(image)[0, 0, 0] == 2
    assert replace(plain, crop_offset="down").pixels(image)[0, 0, 0] == 1


@given(width=st.integers(1, 400), height=st.integers(1, 400))
@settings(max_examples=40, deadline=None)
def test_every_image_gives_a_full_square_or_a_reason(width, height):
    image = Image.new("RGB", (width, height), (9, 9, 9))
    if max(width, height) > 100 * min(width, height):
        with pytest.raises(RowError, match="at most 100 times"):
            DINO_LIKE.pixels(image)
    else:
        assert DINO_LIKE.pixels(image).shape == (3, 28, 28)


def test_a_sliver_is_squashed_but_not_scaled_by_its_short_side():
    sliver = Image.new("RGB", (1, 5000))
    assert replace(CLIP_LIKE, resize="squash").pixels(sliver).shape == (3, 32, 32)
    with pytest.raises(RowError, match="1 x 5000 pixels"):
        CLIP_LIKE.pixels(sliver)


def test_an_image_that_is_not_rgb_is_an_error_of_the_caller():
    with pytest.raises(ValueError, match="'L'"):
        CLIP_LIKE.pixels(Image.new("L", (40, 40)))


@pytest.mark.parametrize(
    "wrong", [{"crop": 33}, {"crop": 0}, {"std": (1.0, 0.0, 1.0)}, {"mean": (0.5, 0.5)}]
)
def test_parameters_that_cannot_be_are_refused(wrong):
    with pytest.raises(RecipeError, match="preprocessing"):
        replace(CLIP_LIKE, **wrong)


def test_as_dict_survives_json_and_tells_parameters_apart():
    facts = CLIP_LIKE.as_dict()
    assert json.loads(json.dumps(facts)) == facts
    assert replace(CLIP_LIKE, crop_offset="down").as_dict() != facts


def test_square_reads_every_way_of_writing_one():
    for size in (224, [224, 224], (224, 224), {"height": 224, "width": 224}):
        assert square(size, "size") == 224
    for size in ([224, 336], {"shortest_edge": 224}, None, "224", True):
        with pytest.raises(RecipeError, match="side of a square"):
            square(size, "size")


def test_triple_reads_three_numbers_or_one_for_all():
    assert triple([1, 2, 3], "mean") == (1.0, 2.0, 3.0)
    assert triple(0.5, "mean") == (0.5, 0.5, 0.5)
    for values in ([1, 2], ["a", "b", "c"], None, "abc"):
        with pytest.raises(RecipeError, match="mean"):
            triple(values, "mean")
