"""Tiny models of the real classes, their processors and rows of random pictures. Nothing is loaded."""

from __future__ import annotations

import io
from functools import cache

import numpy as np
import torch
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    CLIPImageProcessor,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen2VLImageProcessor,
    Qwen2VLProcessor,
    Qwen2VLVideoProcessor,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLProcessor,
)

from train.encode import Encoder
from train.objectives import Combination
from train.rows import TrainingRow

FAMILIES = ("llava", "qwen2_vl", "qwen2_5_vl", "qwen3_vl")
SPECIAL = ("<pad>", "<unk>", "<s>", "</s>", "<image>", "<|video_pad|>", "<|see|>", "<|seen|>")
WORDS = ("USER:", "ASSISTANT:", *"abcdefghijklmnop", "describe", "what", "is")
VOCABULARY = {word: number for number, word in enumerate((*SPECIAL, *WORDS))}
IMAGE_ID, VIDEO_ID = VOCABULARY["<image>"], VOCABULARY["<|video_pad|>"]
TEMPLATE = (
    "{% for message in messages %}{{ message['role'].upper() + ': ' }}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}{{ '<|see|><image><|seen|>\n' }}{% else %}{{ part['text'] }}"
    "{% endif %}{% endfor %}{{ '</s>' if message['role'] == 'assistant' else ' ' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)
ALL = tuple(
    Combination(*which)
    for which in (
        ("image", "chosen"),
        ("image", "rejected"),
        ("image", "neighbour_chosen"),
        ("neighbour", "neighbour_chosen"),
        ("neighbour", "chosen"),
        ("none", "chosen"),
        ("none", "neighbour_chosen"),
        ("crop", "chosen"),
    )
)
_QWENS = {
    "qwen2_vl": (Qwen2VLConfig, Qwen2VLForConditionalGeneration, Qwen2VLProcessor),
    "qwen2_5_vl": (Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLProcessor),
    "qwen3_vl": (Qwen3VLConfig, Qwen3VLForConditionalGeneration, Qwen3VLProcessor),
}


def make_tokenizer(words=VOCABULARY):
    core = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="<pad>",
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        additional_special_tokens=list(SPECIAL[4:]),
        extra_special_tokens={"image_token": "<image>", "video_token": "<|video_pad|>"},
    )


@cache
def make_processor(family):
    if family == "llava":
        side = {"height": 16, "width": 16}
        return LlavaProcessor(
            CLIPImageProcessor(size={"shortest_edge": 16}, crop_size=side),
            make_tokenizer(),
            patch_size=4,
            vision_feature_select_strategy="default",
            num_additional_image_tokens=1,
            chat_template=TEMPLATE,
            image_token="<image>",
        )
    size = {"patch_size": 4, "size": {"shortest_edge": 64, "longest_edge": 1024}}
    return _QWENS[family][2](
        Qwen2VLImageProcessor(**size),
        make_tokenizer(),
        Qwen2VLVideoProcessor(**size),
        chat_template=TEMPLATE,
    )


def make_model(family, attention="sdpa", vocabulary=29, seed=0):
    torch.manual_seed(seed)
    if family == "llava":
        made = LlavaForConditionalGeneration(_llava(vocabulary, attention))
    else:
        made = _QWENS[family][1](_qwen(family, vocabulary, attention))
    for parameter in made.parameters():  # a default initialisation makes all tokens alike
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.3 if parameter.shape[0] == vocabulary else 0.15)
    return made.eval()


def _llava(vocabulary, attention):
    return LlavaConfig(
        vision_config=CLIPVisionConfig(
            hidden_size=32,
            intermediate_size=32,
            num_hidden_layers=3,
            num_attention_heads=2,
            image_size=16,
            patch_size=4,
        ),
        text_config=LlamaConfig(
            vocab_size=vocabulary,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=512,
        ),
        image_token_index=IMAGE_ID,
        image_token_id=IMAGE_ID,
        attn_implementation=attention,
    )


def _qwen(family, vocabulary, attention):
    text = {
        "vocab_size": vocabulary,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 16,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 10000.0,
            "mrope_section": [2, 3, 3],
        },
    }
    vision = {"depth": 2, "patch_size": 4, "spatial_merge_size": 2, "num_heads": 2}
    if family == "qwen2_vl":
        vision |= {"embed_dim": 32, "hidden_size": 32, "mlp_ratio": 2}
    else:
        vision |= {"hidden_size": 32, "intermediate_size": 32, "out_hidden_size": 32}
    if family == "qwen2_5_vl":
        vision |= {"window_size": 16, "fullatt_block_indexes": [1]}
    if family == "qwen3_vl":
        vision |= {"deepstack_visual_indexes": [0, 1], "num_position_embeddings": 64}
    return _QWENS[family][0](
        text_config=text,
        vision_config=vision,
        image_token_id=IMAGE_ID,
        video_token_id=VIDEO_ID,
        vision_start_token_id=VOCABULARY["<|see|>"],
        vision_end_token_id=VOCABULARY["<|seen|>"],
        attn_implementation=attention,
    )


def picture(seed, size):
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


# Different sizes, so that the Qwen families have different grids and prefixes.
FILES = {
    "images/1.png": picture(1, (24, 16)),
    "images/2.png": picture(2, (16, 16)),
    "images/3.png": picture(3, (40, 24)),
}
ROWS = (
    TrainingRow(
        "row-1",
        "describe a b",
        {"image": "images/1.png", "neighbour": "images/2.png"},
        {"chosen": "a c d e", "rejected": "f g", "neighbour_chosen": "h i j k l m n"},
    ),
    TrainingRow(
        "row-2",
        "what is",
        {"image": "images/3.png", "neighbour": "images/1.png"},
        {"chosen": "b", "rejected": "c c a d e", "neighbour_chosen": "p o"},
    ),
)


def make_encoder(family, combinations=ALL, max_tokens=256, **options):
    return Encoder(make_processor(family), combinations, FILES.__getitem__, max_tokens, **options)


def encoded(family, combinations=ALL):
    encoder = make_encoder(family, combinations)
    return [encoder.encode(row) for row in ROWS]


def weighted(scores):
    """A scalar in which every log-probability has a weight of its own."""
    return sum(
        (k + 1) * (values * torch.tensor([1.0, -0.5])).sum()
        for k, values in enumerate(scores.values())
    )
