"""Measures the four models on scenes whose truth is known."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from transformers import AutoProcessor, LlavaForConditionalGeneration, LlavaProcessor

from miniature.making.mix import probes
from miniature.making.training import device
from miniature.questions import DESCRIPTIONS, question_of
from miniature.scenes import Scene
from miniature.scoring import Scores, score
from models import clip, dino

ANSWERED_AT_ONCE = 200
ALIKE, UNLIKE = 0.95, 0.6  # JoMPO's bounds: above the one for CLIP, below the other for DINOv2


def load(path: Path) -> tuple[LlavaForConditionalGeneration, LlavaProcessor]:
    """A language model's folder in float32, for greedy answers, and its processor."""
    model = LlavaForConditionalGeneration.from_pretrained(
        path, dtype=torch.float32, local_files_only=True, use_safetensors=True
    )
    processor = AutoProcessor.from_pretrained(path, local_files_only=True)
    return model.eval().to(device()), processor


def answers(
    model: LlavaForConditionalGeneration,
    processor: LlavaProcessor,
    asked: Sequence[tuple[Image.Image | None, str]],
) -> list[str]:
    """Greedy answers to (picture or none, prompt), in the order asked.

    Prompts with and without a picture are batched apart, the shorter answers together.
    """
    found = [""] * len(asked)
    order = sorted(range(len(asked)), key=lambda i: (asked[i][0] is None, _is_short(asked[i][1])))
    while order:
        blank = asked[order[0]][0] is None
        batch = [i for i in order[:ANSWERED_AT_ONCE] if (asked[i][0] is None) == blank]
        order = order[len(batch) :]
        content = [{"type": "text"}] if blank else [{"type": "image"}, {"type": "text"}]
        texts = [
            processor.apply_chat_template(
                [{"role": "user", "content": [{**part, "text": asked[i][1]} for part in content]}],
                add_generation_prompt=True,
            )
            for i in batch
        ]
        pictures = None if blank else [asked[i][0] for i in batch]
        inputs = processor(images=pictures, text=texts, padding=True, return_tensors="pt")
        inputs = inputs.to(model.device)
        with torch.inference_mode():
            ids = model.generate(**inputs, do_sample=False)
        told = processor.batch_decode(
            ids[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True
        )
        for i, text in zip(batch, told, strict=True):
            found[i] = text
    return found


def measure(
    model: LlavaForConditionalGeneration,
    processor: LlavaProcessor,
    scenes: Sequence[Scene],
    seed: int = 0,
) -> Scores:
    """Scores of greedy answers to one prompt of each kind a scene."""
    asked = probes(scenes, seed)
    pictures = [scene.picture() for scene in scenes]
    texts = answers(model, processor, [(pictures[index], prompt) for index, prompt in asked])
    return score(texts, [scenes[index] for index, _ in asked], [prompt for _, prompt in asked])


def blind_pairs(clip_path: Path, dino_path: Path, scenes: Sequence[Scene]) -> int:
    """Pairs of scenes that CLIP finds alike (cosine over 0.95) and DINOv2 does not (under 0.6).

    The encoders are loaded by the code that loads a user's.
    """
    pictures = [scene.picture() for scene in scenes]
    cosines = [
        _cosines(kind, path, pictures) for kind, path in ((clip, clip_path), (dino, dino_path))
    ]
    blind = (cosines[0] > ALIKE) & (cosines[1] < UNLIKE)
    return int(np.triu(blind, 1).sum())


def _cosines(kind: ModuleType, path: Path, pictures: Sequence[Image.Image]) -> NDArray[np.float32]:
    described = kind.describe(str(path))
    network = kind.build(described, "cpu")
    prepared = np.stack([described.preprocessing.pixels(picture) for picture in pictures])
    with torch.inference_mode():
        vectors = network(torch.from_numpy(prepared)).numpy()
    vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors @ vectors.T


def _is_short(prompt: str) -> bool:
    question = question_of(prompt)
    return question is not None and question.kind not in DESCRIPTIONS
