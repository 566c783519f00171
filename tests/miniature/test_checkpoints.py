from __future__ import annotations

from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoModel, Dinov2Model

from miniature.checkpoints import make_clip, make_dino


def whole(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("make", [make_clip, make_dino])
def test_a_seed_gives_the_same_bytes_and_another_seed_others(make, tmp_path) -> None:
    one, two, other = (
        whole(make(tmp_path / str(number), seed)) for number, seed in enumerate((1, 1, 2))
    )
    assert one == two
    assert one != other
    assert sum(map(len, one.values())) < 1_000_000
    assert not [name for name in one if not name.endswith((".json", ".safetensors"))]


@pytest.mark.parametrize("make", [make_clip, make_dino])
def test_making_one_again_leaves_it_and_the_global_seed_alone(make, tmp_path) -> None:
    torch.manual_seed(11)
    expected = torch.rand(1).item()
    torch.manual_seed(11)
    folder = make(tmp_path / "model", 1)
    assert torch.rand(1).item() == expected
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    make(folder, 1)
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before


def test_open_clip_loads_the_clip(checkpoints) -> None:
    clip, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{checkpoints[0]}")
    pictures = [Image.new("RGB", (90, 60), colour) for colour in ("red", "blue")]
    with torch.inference_mode():
        vectors = clip.encode_image(torch.stack([preprocess(picture) for picture in pictures]))
    assert vectors.shape == (2, 32)
    assert not torch.allclose(vectors[0], vectors[1])


def test_transformers_loads_the_dino(checkpoints) -> None:
    dino = AutoModel.from_pretrained(checkpoints[1], use_safetensors=True)
    processor = AutoImageProcessor.from_pretrained(checkpoints[1])
    assert isinstance(dino, Dinov2Model)
    pixels = processor(images=Image.new("RGB", (90, 60), "red"), return_tensors="pt")
    assert tuple(pixels["pixel_values"].shape) == (1, 3, 56, 56)
    with torch.inference_mode():
        vector = dino(**pixels).pooler_output[0].numpy()
    assert vector.shape == (48,)
    assert np.isfinite(vector).all()
