"""Rows become tokens as the model will meet them, or are refused with a reason; nothing is cut."""

from __future__ import annotations

import copy
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import processors

from config.errors import FileMissing, RecipeError, RefusedRow
from train.encode import CROP_AREA, Encoder, crop_box
from train.objectives import Combination, get

sys.path.insert(0, str(Path(__file__).parent))
from train_helpers import (
    FAMILIES,
    FILES,
    IMAGE_ID,
    ROWS,
    TEMPLATE,
    VOCABULARY,
    make_encoder,
    make_processor,
    make_tokenizer,
    picture,
)

ROW = ROWS[0]
WORD = {number: word for word, number in VOCABULARY.items()}


def words(ids):
    return [WORD[number] for number in ids.tolist()]


def own_processor(template=TEMPLATE):
    """A LLaVA processor of one's own to change."""
    found = copy.copy(make_processor("llava"))
    found.tokenizer, found.chat_template = make_tokenizer(), template
    return found


CHOSEN = (Combination("image", "chosen"),)


def encoder_of(processor, combinations=CHOSEN):
    return Encoder(processor, combinations, FILES.__getitem__, 256)


def refusal(row, encoder=None):
    with pytest.raises(RefusedRow) as caught:
        (encoder or make_encoder("llava")).encode(row)
    assert row.row_id in str(caught.value)
    return caught.value.reason


def test_one_group_for_each_image_slot_with_all_its_responses():
    row = make_encoder("llava", get("jompo").combinations).encode(ROW)
    image, neighbour, none = row.groups
    assert words(image.prefix_ids[:3]) == ["USER:", "<|see|>", "<image>"]
    assert int((image.prefix_ids == IMAGE_ID).sum()) == 16
    assert words(none.prefix_ids) == ["USER:", "describe", "a", "b", "ASSISTANT:"]
    assert none.pixels is None
    assert words(image.responses["chosen"]) == ["a", "c", "d", "e", "</s>"]
    assert words(neighbour.responses["neighbour_chosen"]) == [*"hijklmn", "</s>"]
    assert set(row.combinations) == set(get("jompo").combinations)
    assert image.pixels.key != neighbour.pixels.key


@pytest.mark.parametrize("family", FAMILIES)
def test_there_are_as_many_image_tokens_as_features(family):
    group = make_encoder(family).encode(ROWS[1]).groups[0]
    pixels = group.pixels.inputs
    if family == "llava":
        expected = 16
        assert pixels["pixel_values"].shape == (1, 3, 16, 16)
    else:
        expected = int(pixels["image_grid_thw"].prod()) // 4
        assert expected == 5 * 3  # 40 x 24 pixels in patches of 4, two by two merged
    assert int((group.prefix_ids == IMAGE_ID).sum()) == expected


def test_the_crop_is_the_rows_own_and_keeps_the_images_size():
    combinations = [Combination("image", "chosen"), Combination("crop", "chosen")]
    image, crop = make_encoder("qwen2_vl", combinations).encode(ROW).groups
    again = make_encoder("qwen2_vl", combinations).encode(ROW).groups[1]
    other = make_encoder("qwen2_vl", combinations).encode(replace(ROW, row_id="row-9")).groups[1]
    assert torch.equal(image.prefix_ids, crop.prefix_ids)
    assert torch.equal(crop.pixels.inputs["pixel_values"], again.pixels.inputs["pixel_values"])
    for different in (image, other):
        assert different.pixels.key != crop.pixels.key
        assert not torch.equal(
            different.pixels.inputs["pixel_values"], crop.pixels.inputs["pixel_values"]
        )


@given(st.text(max_size=20), st.integers(64, 2000), st.integers(64, 2000))
def test_a_crop_lies_in_the_image_and_has_the_share_it_should(row_id, width, height):
    left, top, right, bottom = crop_box(row_id, (width, height))
    assert 0 <= left < right <= width
    assert 0 <= top < bottom <= height
    share = (right - left) * (bottom - top) / (width * height)
    assert share <= CROP_AREA[1] * 1.1
    assert share >= CROP_AREA[0] * 0.8 or right - left == width or bottom - top == height


def test_a_response_is_tokenised_as_it_stands_behind_the_prompt():
    """Where prompt and response join into one token, the response is tokenised by itself."""
    spaced = own_processor(TEMPLATE.replace("'ASSISTANT:'", "'ASSISTANT: '"))
    joined = own_processor(
        TEMPLATE.replace(".upper() + ': '", ".upper() + (': ' if message.role == 'user' else ':')")
    )
    for processor in (spaced, joined):
        found = encoder_of(processor).encode(ROW).groups[0]
        assert words(found.responses["chosen"]) == ["a", "c", "d", "e", "</s>"]
        assert words(found.prefix_ids[-1:]) == ["ASSISTANT:"]


def test_the_first_token_is_written_once():
    processor = own_processor()
    processor.tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", VOCABULARY["<s>"])]
    )
    combinations = (Combination("image", "chosen"), Combination("none", "chosen"))
    for template in (TEMPLATE, "<s>" + TEMPLATE):
        processor.chat_template = template
        for group in encoder_of(processor, combinations).encode(ROW).groups:
            assert words(group.prefix_ids[:2]) == ["<s>", "USER:"]
            assert words(group.responses["chosen"]) == ["a", "c", "d", "e", "</s>"]


def test_rows_that_cannot_be_trained_on_are_refused_with_a_reason():
    assert refusal(replace(ROW, prompt="describe <image> a")) == "reserved_token"
    assert (
        refusal(replace(ROW, responses={**ROW.responses, "chosen": "a </s>"})) == "reserved_token"
    )
    assert (
        refusal(replace(ROW, responses={**ROW.responses, "chosen": "\u3000"})) == "empty_response"
    )
    longest = 23 + 8
    assert make_encoder("llava", max_tokens=longest).encode(ROW).row_id == "row-1"
    assert refusal(ROW, make_encoder("llava", max_tokens=longest - 1)) == "too_long"
    assert refusal(ROW, make_encoder("llava", max_tokens=10)) == "too_long"


def test_images_that_cannot_be_read_are_refused_with_a_reason():
    def missing(path):
        raise FileMissing(f"{path} is not there")

    wanted, processor = CHOSEN, make_processor("llava")
    broken = {"images/1.png": FILES["images/1.png"][:90]}
    assert refusal(ROW, Encoder(processor, wanted, missing, 256)) == "missing_image"
    assert refusal(ROW, Encoder(processor, wanted, broken.__getitem__, 256)) == "unreadable_image"


def test_an_image_the_processor_does_not_take_is_refused():
    wide = {"images/1.png": picture(1, (900, 2))}
    encoder = Encoder(make_processor("qwen2_vl"), CHOSEN, wide.__getitem__, 256)
    assert refusal(ROW, encoder) == "unfit_image"


def test_processors_that_would_train_on_the_wrong_text_are_refused():
    for template, message in (
        (None, "chat template"),
        (TEMPLATE.replace("</s>", "<|seen|>"), "ends a response with"),
        (TEMPLATE.replace("'ASSISTANT:'", "'ASSISTANT: <|see|>'"), "answered turn"),
    ):
        processor = own_processor(template)
        with pytest.raises(RecipeError, match=message):
            encoder_of(processor)
    processor = own_processor()
    processor.tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", VOCABULARY["</s>"])]
    )
    with pytest.raises(RecipeError, match="ends every text"):
        encoder_of(processor)
