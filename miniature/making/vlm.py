"""The reference and the captioner: LlavaForConditionalGeneration in small (Liu et al. 2023).

The tiny CLIP's image tower starts the model and, as in LLaVA, stays as it is: so its patches are
computed once for all scenes, and only the projector and the language model train.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
)

from miniature.making.mix import Sample, samples
from miniature.making.processor import BEGIN, CONTEXT, END, IMAGE, PAD, chat, make_processor
from miniature.making.recipe import Recipe, Run
from miniature.making.training import Optimiser, Report, device, normalised, whole
from miniature.scenes import Scene

POOL = 512  # samples that are sorted by length together, so that batches hold little padding
ENCODED_AT_ONCE = 500
LONGEST_ANSWER = 80  # tokens; the longest of the language has 66
SAY_EVERY = 100


@dataclass(frozen=True)
class Encoded:
    """A sample's tokens; the first `prefix` of them are not learned."""

    scene: int | None
    ids: list[int]
    prefix: int


def build(recipe: Recipe, tower_weights: dict[str, Tensor]) -> LlavaForConditionalGeneration:
    """A model whose image tower has these weights (transformers' names) and the rest random.

    Raises RuntimeError where the weights do not fit the tower.
    """
    torch.manual_seed(recipe.seed + 2)
    tower = recipe.tower
    ids = make_processor(tower).tokenizer
    begin, end, pad, image = ids.convert_tokens_to_ids([BEGIN, END, PAD, IMAGE])
    text = LlamaConfig(
        vocab_size=len(ids),
        hidden_size=recipe.language_width,
        intermediate_size=recipe.language_inner,
        num_hidden_layers=recipe.language_layers,
        num_attention_heads=recipe.language_heads,
        num_key_value_heads=recipe.language_heads,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        bos_token_id=begin,
        eos_token_id=end,
        pad_token_id=pad,
    )
    vision = CLIPVisionConfig(
        hidden_size=tower.width,
        intermediate_size=tower.inner,
        num_hidden_layers=tower.layers,
        num_attention_heads=tower.heads,
        image_size=tower.side,
        patch_size=tower.patch,
        projection_dim=recipe.clip_dimension,
        hidden_act="gelu",
    )
    config = LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=image,
        image_seq_length=(tower.side // tower.patch) ** 2,
        vision_feature_layer=-1,
        vision_feature_select_strategy="default",
        tie_word_embeddings=True,
    )
    model = LlavaForConditionalGeneration(config)
    network = getattr(model.model.vision_tower, "vision_model", model.model.vision_tower)
    network.load_state_dict(tower_weights, strict=True)
    settings = model.generation_config
    settings.bos_token_id, settings.eos_token_id, settings.pad_token_id = begin, end, pad
    settings.max_new_tokens, settings.do_sample = LONGEST_ANSWER, False
    return model


def train(
    model: LlavaForConditionalGeneration,
    run: Run,
    recipe: Recipe,
    scenes: Sequence[Scene],
    raw: Tensor,
    *,
    truthful: bool,
    say: Report,
) -> None:
    """Trains projector and language model on the mix; see `mix.samples` for `truthful`.

    `raw` are the scenes' pictures, uint8 [n, 3, side, side].
    """
    where = device()
    model.to(where).train()
    model.model.vision_tower.requires_grad_(False)
    patches = tower_patches(model, raw)
    optimiser = Optimiser([model], run)
    name = "captioner" if truthful else "reference"
    seed = recipe.seed + (4 if truthful else 3)
    mixed = samples(scenes, seed, truthful=truthful, without_image=recipe.without_image)
    processor = make_processor(recipe.tower)
    total, seen = 0.0, 0
    for step, batch in enumerate(islice(batches(mixed, processor, run.batch, seed), run.steps)):
        loss = _loss(model, batch, patches)
        optimiser.step(loss)
        total, seen = total + loss.item(), seen + 1
        if step % SAY_EVERY == 0 or step == run.steps - 1:
            say(f"{name} step {step}: loss {total / seen:.4f} a token")
            total, seen = 0.0, 0
    model.eval()


def save(model: LlavaForConditionalGeneration, recipe: Recipe, path: Path) -> None:
    """Writes a transformers folder in half precision, with processor and chat template."""
    with whole(path) as part:
        make_processor(recipe.tower).save_pretrained(part)
        model.half().cpu().save_pretrained(part, safe_serialization=True)


def tower_patches(model: LlavaForConditionalGeneration, raw: Tensor) -> Tensor:
    """What the image tower gives the projector: [n, patches, width], on the model's device."""
    tower = model.model.vision_tower
    layer = model.config.vision_feature_layer
    with torch.inference_mode():
        parts = [
            tower(normalised(part, tower.device), output_hidden_states=True).hidden_states[layer]
            for part in raw.split(ENCODED_AT_ONCE)
        ]
    return torch.cat(parts)[:, 1:].clone()


def encode(processor: LlavaProcessor, found: Sequence[Sample]) -> list[Encoded]:
    """Samples as tokens: the conversation up to the answer, the answer and the end."""
    core = processor.tokenizer.backend_tokenizer
    count = (processor.image_processor.crop_size["height"] // processor.patch_size) ** 2
    begin, end, image = processor.tokenizer.convert_tokens_to_ids([BEGIN, END, IMAGE])
    asked = [chat(sample.prompt, sample.scene is not None) for sample in found]
    asked_ids = core.encode_batch(asked, add_special_tokens=False)
    told_ids = core.encode_batch([sample.response for sample in found], add_special_tokens=False)
    encoded = []
    for sample, prompt, response in zip(found, asked_ids, told_ids, strict=True):
        prefix = [begin]
        for token in prompt.ids:
            prefix += [token] * (count if token == image else 1)
        encoded.append(Encoded(sample.scene, [*prefix, *response.ids, end], len(prefix)))
    return encoded


def batches(
    mixed: Iterator[Sample], processor: LlavaProcessor, tokens: int, seed: int
) -> Iterator[list[Encoded]]:
    """Batches of samples of about one length, with at most so many tokens, padding included."""
    draw = random.Random(seed)
    while True:
        pool = encode(processor, list(islice(mixed, POOL)))
        pool.sort(key=lambda one: len(one.ids))
        cut: list[list[Encoded]] = [[]]
        for one in pool:
            if cut[-1] and (len(cut[-1]) + 1) * len(one.ids) > tokens:
                cut.append([])
            cut[-1].append(one)
        draw.shuffle(cut)
        yield from cut


def _loss(
    model: LlavaForConditionalGeneration, batch: Sequence[Encoded], patches: Tensor
) -> Tensor:
    """Mean cross-entropy of the answers' tokens. Padding stands behind and is never attended."""
    longest = max(len(one.ids) for one in batch)
    pad = model.generation_config.pad_token_id
    ids = torch.tensor([one.ids + [pad] * (longest - len(one.ids)) for one in batch])
    places = torch.arange(longest)
    first = torch.tensor([one.prefix for one in batch])[:, None]
    lengths = torch.tensor([len(one.ids) for one in batch])[:, None]
    learned = (places >= first) & (places < lengths)
    ids = ids.to(patches.device)
    embedded = model.get_input_embeddings()(ids)
    scenes = [one.scene for one in batch if one.scene is not None]
    if scenes:
        images = model.model.multi_modal_projector(patches[scenes])
        mask = (ids == model.config.image_token_id)[..., None].expand_as(embedded)
        embedded = embedded.masked_scatter(mask, images.to(embedded.dtype))
    hidden = model.model.language_model(inputs_embeds=embedded, use_cache=False).last_hidden_state
    learned = learned.to(patches.device)
    logits = model.lm_head(hidden[:, :-1][learned[:, 1:]])
    return F.cross_entropy(logits.float(), ids[:, 1:][learned[:, 1:]])
