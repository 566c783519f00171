"""Tiny checkpoints of the real encoder classes, with seeded random weights.

Made in a moment, for tests that need a checkpoint and not what it knows; trained ones are in
`miniature/weights`.

They stand where a user's real checkpoints stand and are loaded by the same code. Random weights
see colour and place, not meaning: neighbours are alike to the eye, and cosines are all high.
"""

from __future__ import annotations

import json
from pathlib import Path

CLIP_SIDE, DINO_SIDE = 48, 56
MEAN, STD = [0.5, 0.5, 0.5], [0.25, 0.25, 0.25]


def make_clip(path: Path, seed: int = 0) -> Path:
    """An open_clip CLIP: image width 64, 2 layers, patches of 8, vectors of 32. Idempotent."""
    weights = path / "open_clip_model.safetensors"
    if weights.exists():
        return path
    import torch
    from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg
    from safetensors.torch import save_file

    from miniature.making.training import whole

    vision = {"layers": 2, "width": 64, "head_width": 32, "patch_size": 8, "image_size": CLIP_SIDE}
    text = {"context_length": 16, "vocab_size": 64, "width": 32, "heads": 2, "layers": 1}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = CLIP(32, CLIPVisionCfg(**vision), CLIPTextCfg(**text))
    config = {
        "model_cfg": {"embed_dim": 32, "vision_cfg": vision, "text_cfg": text},
        "preprocess_cfg": {
            "mean": MEAN,
            "std": STD,
            "interpolation": "bicubic",
            "resize_mode": "shortest",
        },
    }
    with whole(path) as part:
        (part / "open_clip_config.json").write_text(json.dumps(config, indent=1, sort_keys=True))
        tensors = {k: v.contiguous() for k, v in sorted(model.state_dict().items())}
        save_file(tensors, part / weights.name)
    return path


def make_dino(path: Path, seed: int = 0) -> Path:
    """A DINOv2 of width 48, 2 layers, patches of 14. Idempotent."""
    if (path / "model.safetensors").exists():
        return path
    import torch
    from transformers import BitImageProcessor, Dinov2Config, Dinov2Model

    from miniature.making.training import whole

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config = Dinov2Config(
            hidden_size=48,
            num_hidden_layers=2,
            num_attention_heads=3,
            image_size=DINO_SIDE,
            patch_size=14,
            layerscale_value=1.0,
        )
        model = Dinov2Model(config)
    processor = BitImageProcessor(
        size={"shortest_edge": DINO_SIDE},
        crop_size={"height": DINO_SIDE, "width": DINO_SIDE},
        resample=3,
        image_mean=MEAN,
        image_std=STD,
    )
    with whole(path) as part:
        processor.save_pretrained(part)
        model.save_pretrained(part, safe_serialization=True)
    return path
