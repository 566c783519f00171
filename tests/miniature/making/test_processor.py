from __future__ import annotations

import pytest

from miniature.making.mix import Sample
from miniature.making.processor import chat, make_processor
from miniature.making.recipe import Tower
from miniature.making.vlm import encode
from miniature.questions import KINDS, answer, draw_question, prompt
from miniature.scenes import make_scenes

PROMPT = "Describe this picture in detail."


@pytest.fixture(scope="module")
def processor():
    return make_processor(Tower())


def test_texts_of_the_language_come_back_as_they_were(processor) -> None:
    import random

    draw = random.Random(3)
    tokenizer = processor.tokenizer
    for scene in make_scenes(60, seed=13):
        for kind in KINDS:
            question = draw_question(kind, scene.things, draw)
            for text in (prompt(question, draw.randrange(3)), answer(question, scene.things)):
                ids = tokenizer(text, add_special_tokens=False)["input_ids"]
                assert tokenizer.unk_token_id not in ids
                assert tokenizer.decode(ids) == text


def test_a_word_of_another_language_is_unknown(processor) -> None:
    ids = processor.tokenizer("a giraffe", add_special_tokens=False)["input_ids"]
    assert ids[1] == processor.tokenizer.unk_token_id


@pytest.mark.parametrize("with_image", [True, False])
def test_training_and_the_processor_write_the_same_tokens(processor, with_image: bool) -> None:
    scene = make_scenes(1)[0]
    content = [{"type": "image"}] if with_image else []
    messages = [{"role": "user", "content": [*content, {"type": "text", "text": PROMPT}]}]
    text = processor.apply_chat_template(messages, add_generation_prompt=True)
    assert text == chat(PROMPT, with_image)
    pictures = [scene.picture()] if with_image else None
    inputs = processor(images=pictures, text=[text], return_tensors="pt")
    (encoded,) = encode(processor, [Sample(0 if with_image else None, PROMPT, "No.")])
    assert inputs["input_ids"][0].tolist() == encoded.ids[: encoded.prefix]
    assert encoded.ids[-1] == processor.tokenizer.eos_token_id
    images = inputs["input_ids"][0].tolist().count(processor.image_token_id)
    assert images == (9 if with_image else 0)


def test_a_conversation_with_its_answer_ends_with_the_end(processor) -> None:
    messages = [
        {"role": "user", "content": PROMPT},
        {"role": "assistant", "content": [{"type": "text", "text": "There are no stars."}]},
    ]
    text = processor.apply_chat_template(messages)
    assert text == f"USER: {PROMPT} ASSISTANT: There are no stars.</s>"


def test_the_pictures_are_normalised_as_in_training(processor) -> None:
    import torch

    from miniature.making.training import normalised, pixels

    scenes = make_scenes(3)
    given = processor.image_processor([scene.picture() for scene in scenes], return_tensors="pt")[
        "pixel_values"
    ]
    assert torch.allclose(given, normalised(pixels(scenes), torch.device("cpu")), atol=1e-5)
