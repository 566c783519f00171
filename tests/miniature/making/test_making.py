"""The recipe from end to end, with two steps a model: what it writes, keeps and loads."""

from __future__ import annotations

import json
from dataclasses import replace

import open_clip
import pytest
import torch
from safetensors.torch import load_file
from transformers import LlavaForConditionalGeneration

from miniature.making import clip, evaluate, vlm
from miniature.making.__main__ import MODELS, Maker
from miniature.making.mix import samples
from miniature.making.recipe import Recipe, Run
from miniature.making.training import Optimiser
from miniature.scenes import make_scenes

RECIPE = replace(
    Recipe().lasting(0.0),
    scenes=48,
    clip=Run(2, 16, 1e-3, 1e-3),
    dino=Run(2, 16, 1e-3, 1e-3),
)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    out = tmp_path_factory.mktemp("made")
    maker = Maker(RECIPE, out, lambda line: None)
    maker.make()
    maker.measure(scenes=4, among=20)
    return out


def weights(folder) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*.safetensors"))
    }


def test_the_account_tells_recipe_models_and_scores(made) -> None:
    account = json.loads((made / "recipe.json").read_text())
    assert account["digest"] == RECIPE.digest
    assert set(account["models"]) == set(MODELS)
    assert account["scores"]["reference"]["test"]["coverage"] is not None
    for name, told in account["models"].items():
        assert told["bytes"] == sum(len(v) for k, v in weights(made).items() if name in k)


def test_the_folders_are_ordinary_checkpoints(made) -> None:
    model, _, _ = open_clip.create_model_and_transforms(f"local-dir:{made / 'clip'}")
    assert model.visual.output_dim == RECIPE.clip_dimension
    for name in ("reference", "captioner"):
        model, processor = evaluate.load(made / name)
        assert isinstance(model, LlavaForConditionalGeneration)
        assert model.generation_config.eos_token_id == processor.tokenizer.eos_token_id
        stored = load_file(made / name / "model.safetensors")
        assert {tensor.dtype for tensor in stored.values()} == {torch.float16}


def test_the_same_recipe_gives_the_same_weights(made, tmp_path) -> None:
    Maker(RECIPE, tmp_path, lambda line: None).make()
    assert weights(tmp_path) == weights(made)


def test_what_is_made_is_kept_and_what_is_missing_is_made(made) -> None:
    before = {path: path.stat().st_mtime_ns for path in made.rglob("*.safetensors")}
    account = made / "recipe.json"
    known = json.loads(account.read_text())
    del known["models"]["captioner"]
    account.write_text(json.dumps(known))
    Maker(RECIPE, made, lambda line: None).make()
    after = {path: path.stat().st_mtime_ns for path in made.rglob("*.safetensors")}
    changed = {path.parent.name for path in before if before[path] != after[path]}
    assert changed == {"captioner"}
    assert set(json.loads(account.read_text())["models"]) == set(MODELS)


def test_another_recipe_makes_everything_anew(made) -> None:
    lines: list[str] = []
    maker = Maker(replace(RECIPE, seed=9), made, lines.append)
    assert "made anew" in lines[0]
    assert maker._known["models"] == {}


def test_the_language_model_sees_through_the_tower_of_the_clip(made) -> None:
    """Both code bases give the same vector for the same pixels."""
    state = load_file(made / "clip" / "open_clip_model.safetensors")
    config = clip.configuration(RECIPE)["model_cfg"]
    tower = open_clip.model._build_vision_tower(config["embed_dim"], config["vision_cfg"])
    tower.load_state_dict(
        {
            name.removeprefix("visual."): value.float()
            for name, value in state.items()
            if name.startswith("visual.")
        }
    )
    model = vlm.build(RECIPE, clip.vision_weights(state, RECIPE.tower.layers))
    pixels = torch.randn(2, 3, 60, 60, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        ours = model.model.vision_tower(pixels).pooler_output @ tower.proj
        assert torch.allclose(ours, tower(pixels), atol=1e-5)


def test_the_loss_is_that_of_the_whole_model(made) -> None:
    """Patches computed once and padding behind give what a plain forward pass gives."""
    from miniature.making.training import normalised, pixels

    model, processor = evaluate.load(made / "reference")
    scenes = make_scenes(6)
    raw = pixels(scenes)
    mixed = samples(scenes, 1, truthful=False, without_image=0.3)
    batch = vlm.encode(processor, [next(mixed) for _ in range(8)])
    with torch.inference_mode():
        found = vlm._loss(model, batch, vlm.tower_patches(model, raw))
        losses, count = 0.0, 0
        for one in batch:
            ids = torch.tensor([one.ids])
            labels = ids.clone()
            labels[:, : one.prefix] = -100
            seen = None if one.scene is None else normalised(raw[[one.scene]], model.device)
            told = model(input_ids=ids, pixel_values=seen, labels=labels)
            losses += told.loss.item() * (len(one.ids) - one.prefix)
            count += len(one.ids) - one.prefix
    assert found.item() == pytest.approx(losses / count, rel=1e-4)


def test_batches_hold_every_sample_once_and_keep_to_their_tokens(made) -> None:
    _, processor = evaluate.load(made / "reference")
    scenes = make_scenes(40)
    mixed = samples(scenes, 2, truthful=True, without_image=0.1)
    again = samples(scenes, 2, truthful=True, without_image=0.1)
    cut = vlm.batches(mixed, processor, 600, seed=1)
    found: list[vlm.Encoded] = []
    while len(found) < vlm.POOL:
        batch = next(cut)
        assert len(batch) * max(len(one.ids) for one in batch) <= 600
        found += batch
    wanted = vlm.encode(processor, [next(again) for _ in range(vlm.POOL)])
    assert sorted(one.ids for one in found) == sorted(one.ids for one in wanted)


def test_muon_takes_the_hidden_matrices_and_no_table(made) -> None:
    model, _ = evaluate.load(made / "reference")
    optimiser = Optimiser([model], RECIPE.reference)
    muon, adam = (
        {id(p) for group in one.param_groups for p in group["params"]} for one in optimiser._both
    )
    named = dict(model.named_parameters())
    assert muon | adam == {id(p) for p in named.values()}
    assert not muon & adam
    tables = {id(p) for name, p in named.items() if "embed" in name or p.ndim != 2}
    assert adam == tables
