"""A checkpoint of the shape of the miniature world's models, with random weights."""

from __future__ import annotations

from pathlib import Path

import torch
from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg

from miniature.making import clip, vlm
from miniature.making.recipe import Recipe


def make_llava(path: Path, seed: int = 0) -> Path:
    recipe = Recipe(seed=seed)
    sizes = clip.configuration(recipe)["model_cfg"]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        encoder = CLIP(
            sizes["embed_dim"],
            CLIPVisionCfg(**sizes["vision_cfg"]),
            CLIPTextCfg(**sizes["text_cfg"]),
        )
        model = vlm.build(recipe, clip.vision_weights(encoder.state_dict(), recipe.tower.layers))
    vlm.save(model, recipe, path)
    return path
