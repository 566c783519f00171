"""The tiny CLIP (Radford et al. 2021), in open_clip's own class and format.

It learns from captions that name objects without size and place, so its vector is blind to both.
So that its patches can serve a language model, each also learns to tell what its own cell holds.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg
from safetensors.torch import save_file
from torch import Tensor, nn

from miniature.making.recipe import Recipe
from miniature.making.training import (
    MEAN,
    STD,
    Optimiser,
    Report,
    device,
    normalised,
    rounds,
    whole,
)
from miniature.scenes import Scene
from miniature.vocabulary import COLOURS, PLACES, SHAPES, SIZES

CAPTION_WORDS = (*COLOURS, *SHAPES)
END = len(CAPTION_WORDS) + 1  # open_clip reads the text's vector at its highest token
ATTRIBUTES = (COLOURS, SHAPES, SIZES)
SAY_EVERY = 100


def configuration(recipe: Recipe) -> dict[str, Any]:
    """The `open_clip_config.json` of the tiny CLIP."""
    tower = recipe.tower
    vision = {
        "layers": tower.layers,
        "width": tower.width,
        "head_width": tower.width // tower.heads,
        "mlp_ratio": tower.inner / tower.width,
        "patch_size": tower.patch,
        "image_size": tower.side,
    }
    text = {
        "context_length": recipe.clip_context,
        "vocab_size": END + 1,
        "width": recipe.clip_text_width,
        "heads": 4,
        "layers": 1,
    }
    looks = {"mean": MEAN, "std": STD, "interpolation": "bicubic", "resize_mode": "shortest"}
    sizes = {"embed_dim": recipe.clip_dimension, "vision_cfg": vision, "text_cfg": text}
    return {"model_cfg": sizes, "preprocess_cfg": looks}


def train(recipe: Recipe, scenes: Sequence[Scene], raw: Tensor, say: Report) -> CLIP:
    """Trains the tiny CLIP on scenes and their pictures, uint8 [n, 3, side, side]."""
    where = device()
    torch.manual_seed(recipe.seed)
    sizes = configuration(recipe)["model_cfg"]
    model = CLIP(
        sizes["embed_dim"],
        CLIPVisionCfg(**sizes["vision_cfg"]),
        CLIPTextCfg(**sizes["text_cfg"]),
    ).to(where)
    model.visual.output_tokens = True
    head = nn.Linear(recipe.tower.width, sum(len(names) + 1 for names in ATTRIBUTES)).to(where)
    optimiser = Optimiser([model, nn.ModuleDict({"head": head})], recipe.clip)
    draw = random.Random(recipe.seed)
    cells = torch.stack([_cells(scene) for scene in scenes])
    run = recipe.clip
    for step, chosen in enumerate(rounds(len(scenes), run.batch, run.steps, recipe.seed)):
        pooled, patches = model.visual(normalised(raw[chosen], where))
        captions = torch.stack(
            [_caption(scenes[index], recipe.clip_context, draw) for index in chosen.tolist()]
        )
        words = F.normalize(model.encode_text(captions.to(where)), dim=-1)
        alike = [scenes[index].objects for index in chosen.tolist()]
        contrast = _contrastive(F.normalize(pooled, dim=-1) @ words.T, model.logit_scale, alike)
        dense = _dense(head(patches), cells[chosen].to(where))
        optimiser.step(contrast + dense)
        if step % SAY_EVERY == 0 or step == run.steps - 1:
            say(f"clip step {step}: contrast {contrast.item():.3f}, cells {dense.item():.4f}")
    return model.eval()


def save(model: CLIP, recipe: Recipe, path: Path) -> None:
    """Writes an open_clip folder in half precision."""
    with whole(path) as part:
        text = json.dumps(configuration(recipe), indent=1, sort_keys=True)
        (part / "open_clip_config.json").write_text(text + "\n", encoding="utf-8")
        tensors = {
            name: value.half().cpu().contiguous()
            for name, value in sorted(model.state_dict().items())
        }
        save_file(tensors, part / "open_clip_model.safetensors")


def vision_weights(state: dict[str, Tensor], layers: int) -> dict[str, Tensor]:
    """open_clip's image tower under the names of transformers' CLIPVisionModel, in float32."""
    state = {name: value.float() for name, value in state.items()}
    found = {
        "embeddings.class_embedding": state["visual.class_embedding"],
        "embeddings.patch_embedding.weight": state["visual.conv1.weight"],
        "embeddings.position_embedding.weight": state["visual.positional_embedding"],
        "pre_layrnorm.weight": state["visual.ln_pre.weight"],
        "pre_layrnorm.bias": state["visual.ln_pre.bias"],
        "post_layernorm.weight": state["visual.ln_post.weight"],
        "post_layernorm.bias": state["visual.ln_post.bias"],
    }
    same = {
        "attn.out_proj": "self_attn.out_proj",
        "ln_1": "layer_norm1",
        "ln_2": "layer_norm2",
        "mlp.c_fc": "mlp.fc1",
        "mlp.c_proj": "mlp.fc2",
    }
    for layer in range(layers):
        old, new = f"visual.transformer.resblocks.{layer}", f"encoder.layers.{layer}"
        for kind in ("weight", "bias"):
            parts = state[f"{old}.attn.in_proj_{kind}"].chunk(3)
            for name, value in zip("qkv", parts, strict=True):
                found[f"{new}.self_attn.{name}_proj.{kind}"] = value
            for theirs, ours in same.items():
                found[f"{new}.{ours}.{kind}"] = state[f"{old}.{theirs}.{kind}"]
    return found


def _caption(scene: Scene, context: int, draw: random.Random) -> Tensor:
    """The scene's objects in any order, as tokens [context]."""
    names = [thing.name for thing in scene.things]
    draw.shuffle(names)
    ids = [CAPTION_WORDS.index(word) + 1 for word in " ".join(names).split()]
    return torch.tensor([*ids, END, *[0] * (context - len(ids) - 1)])


def _contrastive(cosines: Tensor, scale: Tensor, alike: Sequence[tuple[str, ...]]) -> Tensor:
    """CLIP's loss over [n, n] cosines; pairs of scenes with the same objects are all right."""
    keys = [frozenset(names) for names in alike]
    right = torch.tensor([[a == b for b in keys] for a in keys], device=cosines.device)
    targets = right / right.sum(-1, keepdim=True)
    logits = cosines * scale.exp().clamp(max=100)
    return (F.cross_entropy(logits, targets) + F.cross_entropy(logits.T, targets)) / 2


def _cells(scene: Scene) -> Tensor:
    """What each cell holds, [9, 3]: colour, shape and size, counted from 1; 0 where it is empty."""
    found = torch.zeros(len(PLACES), len(ATTRIBUTES), dtype=torch.long)
    for thing in scene.things:
        values = (thing.colour, thing.shape, thing.size)
        found[thing.place] = torch.tensor(
            [names.index(value) + 1 for names, value in zip(ATTRIBUTES, values, strict=True)]
        )
    return found


def _dense(logits: Tensor, cells: Tensor) -> Tensor:
    """Cross-entropy of what the patches [n, 9, all values] tell of their cells [n, 9, 3]."""
    parts = logits.split([len(names) + 1 for names in ATTRIBUTES], dim=-1)
    losses = [
        F.cross_entropy(part.flatten(0, 1), cells[..., number].flatten())
        for number, part in enumerate(parts)
    ]
    return torch.stack(losses).sum()
