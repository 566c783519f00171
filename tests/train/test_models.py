"""What trains is what was stated; what is saved is what other programs load."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState
from peft import PeftModel
from safetensors import safe_open
from transformers import AutoModelForImageTextToText, AutoProcessor

from config.errors import RecipeError, TrainingError
from storage.root import Root
from train.dry import dry_run
from train.export import export
from train.loop import train
from train.models import bare_name, describe, load_policy, part_of, trainable
from train.objectives import get
from train.scoring import Scorer, unused_parameters
from train.setup import open_rows

sys.path.insert(0, str(Path(__file__).parent))
from loop_helpers import recipe, write_dataset, write_model
from train_helpers import FAMILIES, encoded, make_model, weighted

LORA = {"method": "lora", "rank": 4, "alpha": 8}


@pytest.fixture(autouse=True)
def on_cpu(monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    return {family: write_model(folder / family, family) for family in FAMILIES}


@pytest.mark.parametrize("method", ["lora", "full"])
@pytest.mark.parametrize("parts", [["language"], ["projector"], ["vision", "projector"]])
@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl"])
def test_gradients_reach_the_stated_parts_and_no_other(models, family, parts, method):
    stated = {"method": method, "parts": parts, "rank": 4, "alpha": 8}
    model = load_policy(recipe(models[family], trained=stated))
    assert set(describe(model)) == set(parts)
    for name, parameter in trainable(model).items():
        assert parameter.dtype == torch.float32
        if "lora_B" in name:  # at zero, A would have no gradient
            torch.nn.init.normal_(parameter, std=0.1)
    weighted(Scorer(model.train())(encoded(family))).backward()
    for name, parameter in model.named_parameters():
        if part_of(bare_name(name)) in parts and parameter.requires_grad:
            dead = "k_proj.bias" in name  # a shift of all keys changes no attention
            assert dead or parameter.grad.abs().max() > 0, name
        else:
            assert parameter.grad is None, name


@pytest.mark.parametrize("method", ["lora", "full"])
def test_layers_that_no_output_depends_on_do_not_train(models, method):
    stated = {"method": method, "parts": ["vision"], "rank": 4, "alpha": 8}
    idle = {
        name.removesuffix(".weight").removesuffix(".bias")
        for name in unused_parameters(make_model("llava"))
    }
    assert idle
    model = load_policy(recipe(models["llava"], trained=stated))
    trains = [bare_name(name) for name in trainable(model)]
    assert not [name for name in trains for layer in idle if name.startswith(f"{layer}.")]


@pytest.mark.parametrize("family", FAMILIES)
def test_an_exported_adapter_is_the_policy_merged(models, tmp_path, family):
    root, out = write_dataset(tmp_path / "data"), tmp_path / "out"
    stated = {**LORA, "parts": ["language", "vision", "projector"]}
    made = recipe(
        models[family],
        "dpo",
        trained=stated,
        reference={"kind": "adapter-off"},
        optimiser={"max_steps": 2, "learning_rate": 1e-2},
        checkpoints={"export": True},
    )
    result = train(made, root, out)
    rows = encoded(family, get("dpo").combinations)
    base = AutoModelForImageTextToText.from_pretrained(models[family])
    with torch.no_grad():
        before = Scorer(base.eval())(rows)
        policy = PeftModel.from_pretrained(base, Path(result["checkpoint"]) / "adapter").eval()
        trained = Scorer(policy)(rows)
        merged = Scorer(AutoModelForImageTextToText.from_pretrained(result["model"]).eval())(rows)
    for which in before:
        assert torch.allclose(trained[which], merged[which], atol=1e-3)
        assert (trained[which] - before[which]).abs().max() > 1e-2
    AutoProcessor.from_pretrained(result["model"])


def test_exported_names_are_those_of_the_hub(models, tmp_path):
    root = write_dataset(tmp_path / "data")
    made = recipe(models["llava"], optimiser={"max_steps": 1})
    result = train(made, root, tmp_path / "out")
    found = export(Path(result["checkpoint"]), tmp_path / "exported", torch.bfloat16)
    with safe_open(found / "model.safetensors", "pt") as file:
        names = set(file.keys())
        assert file.get_tensor("language_model.lm_head.weight").dtype == torch.bfloat16
    assert "vision_tower.vision_model.embeddings.class_embedding" in names
    assert "language_model.model.layers.0.self_attn.q_proj.weight" in names
    assert "multi_modal_projector.linear_1.weight" in names
    with pytest.raises(TrainingError, match="no whole checkpoint"):
        export(tmp_path, tmp_path / "other")


def test_an_sft_adapter_goes_on_against_its_frozen_copy(models, tmp_path):
    root = write_dataset(tmp_path / "data")
    stated = {**LORA, "parts": ["language"]}
    sft = recipe(
        models["llava"], "sft", trained=stated, optimiser={"max_steps": 2, "learning_rate": 1e-2}
    )
    first = train(sft, root, tmp_path / "sft")
    adapter = str(Path(first["checkpoint"]) / "adapter")
    for kind in ("frozen-adapter", "cache", "second-model"):
        AcceleratorState._reset_state(reset_partial_state=True)
        start = {"adapter": adapter}
        made = recipe(models["llava"], "dpo", model=start, trained=stated, reference={"kind": kind})
        result = train(made, root, tmp_path / kind)  # refused at step 0 were it another model
        assert result["trains"] == first["trains"]


def test_a_model_without_safetensors_is_refused(tmp_path):
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(RecipeError, match=r"no \.safetensors"):
        load_policy(recipe(str(tmp_path)))


def test_refused_rows_are_counted_and_the_others_train(models, tmp_path):
    root = write_dataset(tmp_path / "data")
    processor = AutoProcessor.from_pretrained(models["llava"])

    class One:
        count, index = 1, 0
        gather = staticmethod(list)

    lengths = open_rows(recipe(models["llava"]), root, processor, One())[1].tokens
    made = recipe(models["llava"], data={"max_tokens": 28})
    _, rows = open_rows(made, root, processor, One())
    assert 0 < len(rows.rows) < len(lengths)
    assert rows.refused == {"too_long": len(lengths) - len(rows.rows)}
    assert "never cut" in rows.examples["too_long"]
    with pytest.raises(TrainingError, match="too_long"):
        open_rows(recipe(models["llava"], data={"max_tokens": 5}), root, processor, One())


def test_the_dry_run_prints_and_writes_nothing(models, tmp_path):
    root = write_dataset(tmp_path / "data")
    before = root.walk("")
    page = dry_run(recipe(models["llava"]), Root(tmp_path / "data"))
    assert "language 0.0M, projector 0.0M" in page
    assert "steps       6 of 4 rows" in page
    assert "GiB on each of 1" in page
    assert root.walk("") == before
