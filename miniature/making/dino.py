"""The tiny image encoder in DINOv2's architecture (Oquab et al. 2023).

Its class token learns the scene's layout from an exact teacher instead of by self-distillation:
the cosine of two scenes shall be that of their layouts, cell by cell. So it tells scenes apart
that the tiny CLIP, which learns what is there but not where, finds alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import BitImageProcessor, Dinov2Config, Dinov2Model

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

# What two things in the same cell have in common, of 1.
WEIGHTS = ((SHAPES, "shape", 0.45), (COLOURS, "colour", 0.35), (SIZES, "size", 0.2))
SAY_EVERY = 100


def train(recipe: Recipe, scenes: Sequence[Scene], raw: Tensor, say: Report) -> Dinov2Model:
    """Trains the encoder on scenes and their pictures, uint8 [n, 3, side, side]."""
    where = device()
    torch.manual_seed(recipe.seed + 1)
    tower = recipe.tower
    model = Dinov2Model(
        Dinov2Config(
            hidden_size=tower.width,
            num_hidden_layers=tower.layers,
            num_attention_heads=tower.heads,
            mlp_ratio=tower.inner // tower.width,
            image_size=tower.side,
            patch_size=tower.patch,
            layerscale_value=1.0,
        )
    ).to(where)
    optimiser = Optimiser([model], recipe.dino)
    layouts = F.normalize(torch.stack([_layout(scene) for scene in scenes]), dim=-1)
    run = recipe.dino
    for step, chosen in enumerate(rounds(len(scenes), run.batch, run.steps, recipe.seed + 1)):
        token = model(pixel_values=normalised(raw[chosen], where)).last_hidden_state[:, 0]
        found = F.normalize(token, dim=-1)
        wanted = layouts[chosen].to(where)
        loss = F.mse_loss(found @ found.T, wanted @ wanted.T)
        optimiser.step(loss)
        if step % SAY_EVERY == 0 or step == run.steps - 1:
            say(f"dino step {step}: cosines off by {loss.item() ** 0.5:.4f}")
    return model.eval()


def save(model: Dinov2Model, recipe: Recipe, path: Path) -> None:
    """Writes a transformers folder in half precision, with its image processor."""
    side = recipe.tower.side
    processor = BitImageProcessor(
        size={"shortest_edge": side},
        crop_size={"height": side, "width": side},
        resample=3,
        image_mean=MEAN,
        image_std=STD,
    )
    with whole(path) as part:
        processor.save_pretrained(part)
        model.half().cpu().save_pretrained(part, safe_serialization=True)


def _layout(scene: Scene) -> Tensor:
    """[9 x 14]: for each cell, the shape, colour and size of what it holds, if anything."""
    width = sum(len(values) for values, _, _ in WEIGHTS)
    found = torch.zeros(len(PLACES), width)
    for thing in scene.things:
        offset = 0
        for values, attribute, weight in WEIGHTS:
            found[thing.place, offset + values.index(getattr(thing, attribute))] = sqrt(weight)
            offset += len(values)
    return found.flatten()
