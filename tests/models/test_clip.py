"""What a CLIP checkpoint's files say of it: read strictly, without building the network."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from config.errors import RecipeError
from models import clip
from models.clip import describe

ROOT = Path(__file__).parents[2]
TOWER = {"image_size": 64, "layers": 2, "width": 64, "patch_size": 16}


def clip_files(path, *, weights=("open_clip_model.safetensors",), preprocess=None, **model_cfg):
    config = {
        "model_cfg": {"embed_dim": 32, "vision_cfg": TOWER, "text_cfg": {}, **model_cfg},
        "preprocess_cfg": preprocess or {},
    }
    path.mkdir(exist_ok=True)
    (path / "open_clip_config.json").write_text(json.dumps(config))
    for name in weights:
        (path / name).write_bytes(name.encode())
    return str(path)


def test_parameters_come_from_the_files_and_open_clips_defaults(tmp_path):
    found = describe(clip_files(tmp_path / "tiny"))
    assert (found.name, found.dimension) == ("tiny", 32)
    assert found.architecture["vision_cfg"]["width"] == 64
    preprocessing = found.preprocessing
    assert (preprocessing.resize, preprocessing.resize_to, preprocessing.crop) == (
        "shortest",
        64,
        64,
    )
    assert preprocessing.interpolation == "bicubic"


def test_the_defaults_are_open_clips():
    from dataclasses import asdict

    from open_clip.model import CLIPVisionCfg
    from open_clip.transform import PreprocessCfg

    theirs = asdict(PreprocessCfg())
    assert {k: list(v) if isinstance(v, tuple) else v for k, v in theirs.items()} == {
        **clip.DEFAULTS,
        "size": clip.DEFAULT_IMAGE_SIZE,
        "mode": "RGB",
        "fill_color": 0,
    }
    assert CLIPVisionCfg().image_size == clip.DEFAULT_IMAGE_SIZE


def test_stated_preprocessing_wins_and_nulls_do_not(tmp_path):
    stated = {"mean": [0.5] * 3, "std": None, "resize_mode": "squash", "interpolation": "bilinear"}
    found = describe(clip_files(tmp_path / "tiny", preprocess={**stated, "size": 999}))
    assert found.preprocessing.mean == (0.5, 0.5, 0.5)
    assert found.preprocessing.std == tuple(clip.DEFAULTS["std"])
    assert found.preprocessing.resize == "squash"
    assert found.preprocessing.crop == 64  # the tower's own size


@pytest.mark.parametrize(
    ("preprocess", "named"),
    [
        ({"resize_mode": "longest"}, "resize_mode"),
        ({"interpolation": "random"}, "interpolation"),
        ({"mean": [0.5]}, "mean"),
    ],
)
def test_preprocessing_that_is_not_known_is_refused(tmp_path, preprocess, named):
    with pytest.raises(RecipeError, match=named):
        describe(clip_files(tmp_path / "tiny", preprocess=preprocess))


def test_an_image_that_is_not_square_is_refused(tmp_path):
    with pytest.raises(RecipeError, match="image_size"):
        describe(clip_files(tmp_path / "tiny", vision_cfg={**TOWER, "image_size": [64, 96]}))


@pytest.mark.parametrize("config", [{}, {"model_cfg": {"embed_dim": 4}}, {"model_cfg": [1]}])
def test_a_file_that_is_no_open_clip_configuration_is_refused(tmp_path, config):
    clip_files(tmp_path / "tiny")
    (tmp_path / "tiny" / "open_clip_config.json").write_text(json.dumps(config))
    with pytest.raises(RecipeError, match="not an open_clip configuration"):
        describe(str(tmp_path / "tiny"))


@pytest.mark.parametrize(
    "pickle", ["open_clip_pytorch_model.bin", "open_clip_pytorch_model.pth", "model.pt"]
)
def test_pickles_alone_are_refused(tmp_path, pickle):
    with pytest.raises(RecipeError, match=pickle):
        describe(clip_files(tmp_path / "tiny", weights=(pickle,)))


def test_safetensors_are_taken_also_beside_a_pickle_of_open_clips_preferred_name(tmp_path):
    weights = ("open_clip_pytorch_model.bin", "mine.safetensors")
    found = describe(clip_files(tmp_path / "tiny", weights=weights))
    assert [path.name for path in found.weights] == ["mine.safetensors"]


def test_of_several_files_open_clips_own_is_taken_and_none_is_guessed(tmp_path):
    both = ("model.safetensors", "open_clip_model.safetensors")
    found = describe(clip_files(tmp_path / "one", weights=both))
    assert [path.name for path in found.weights] == ["open_clip_model.safetensors"]
    with pytest.raises(RecipeError, match=r"a\.safetensors, b\.safetensors"):
        describe(clip_files(tmp_path / "two", weights=("a.safetensors", "b.safetensors")))


def test_a_timm_network_never_fetches_weights_and_is_never_elsewhere(tmp_path):
    timm = {"timm_model_name": "vit_tiny_patch16_224", "timm_model_pretrained": True}
    found = describe(clip_files(tmp_path / "one", vision_cfg={**TOWER, **timm}))
    assert found.architecture["vision_cfg"]["timm_model_pretrained"] is False
    elsewhere = {"timm_model_name": "hf-hub:some/body"}
    with pytest.raises(RecipeError, match="hf-hub:some/body"):
        describe(clip_files(tmp_path / "two", vision_cfg={**TOWER, **elsewhere}))


def test_an_architecture_and_tag_name_a_repository(monkeypatch):
    asked = []

    def refuse(model, patterns, repository):
        asked.append((model, repository))
        raise RecipeError("no network")

    monkeypatch.setattr(clip, "resolve", refuse)
    for model in ("ViT-L-14-336/openai", "timm/vit_large_patch14_clip_336.openai"):
        with pytest.raises(RecipeError, match="no network"):
            describe(model)
    assert asked == [
        ("ViT-L-14-336/openai", "timm/vit_large_patch14_clip_336.openai"),
        ("timm/vit_large_patch14_clip_336.openai", None),
    ]


def test_a_tag_that_open_clip_does_not_know_is_refused():
    with pytest.raises(RecipeError, match=r"no weights 'opnai' of 'ViT-L-14-336'.*'openai'"):
        describe("ViT-L-14-336/opnai")


def test_a_tag_published_as_a_pickle_only_is_refused(monkeypatch):
    import open_clip

    monkeypatch.setattr(open_clip, "get_pretrained_cfg", lambda *_: {"url": "x.pt", "hf_hub": ""})
    with pytest.raises(RecipeError, match="pickle only"):
        describe("ViT-L-14-336/openai")


def test_telling_a_model_and_importing_the_encoders_imports_no_torch(tmp_path):
    model = clip_files(tmp_path / "tiny")
    program = (
        "import sys; from pathlib import Path; import models.encoders;"
        "from models.identity import identify;"
        f"identify('clip', {model!r}, Path({str(tmp_path)!r}));"
        "heavy = {'torch', 'open_clip', 'transformers', 'huggingface_hub'} & set(sys.modules);"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
