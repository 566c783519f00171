"""The shipped models do what their card says, on scenes that they have not seen.

The bounds leave a margin of several standard errors of so many scenes.
"""

from __future__ import annotations

import json
import re

import pytest

from miniature.making import evaluate
from miniature.making.__main__ import MODELS, SHIPPED
from miniature.making.recipe import Recipe
from miniature.scenes import make_scenes

ACCOUNT = json.loads((SHIPPED / "recipe.json").read_text(encoding="utf-8"))
README = (SHIPPED.parent / "README.md").read_text(encoding="utf-8")
SCENES = 150


def test_the_shipped_models_are_of_this_recipe() -> None:
    assert ACCOUNT["digest"] == Recipe().digest, "run python -m miniature.making"


def test_they_are_small_and_without_pickles() -> None:
    files = [path for path in SHIPPED.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 10_000_000
    assert {path.suffix for path in files} <= {".safetensors", ".json", ".jinja", ".md"}
    assert {path.name for path in SHIPPED.iterdir() if path.is_dir()} == set(MODELS)


@pytest.fixture(scope="module")
def scores():
    scenes = make_scenes(SCENES, seed=1, split="test")
    return {
        name: evaluate.measure(*evaluate.load(SHIPPED / name), scenes)
        for name in ("reference", "captioner")
    }


def test_the_reference_sees_and_hallucinates(scores) -> None:
    found = scores["reference"]
    assert 20 < found.chair_s < 50
    assert 4 < found.chair_i < 20
    assert found.coverage > 95
    assert 35 < found.exact < 85
    assert found.yes_no > 65


def test_the_captioner_hardly_does(scores) -> None:
    found = scores["captioner"]
    assert found.chair_s < 3
    assert found.coverage > 97
    assert found.exact > 90
    assert found.yes_no > 84


def test_there_are_blind_pairs() -> None:
    scenes = make_scenes(300, seed=1, split="test")
    assert evaluate.blind_pairs(SHIPPED / "clip", SHIPPED / "dino", scenes) >= 5


def test_the_page_tells_the_figures_of_the_account() -> None:
    for name in ("reference", "captioner"):
        for split in ("validation", "test"):
            told = ACCOUNT["scores"][name][split]
            keys = ("chair_s", "chair_i", "coverage", "exact", "yes_no", "others")
            figures = " | ".join(f"{told[key]:.1f}" for key in keys)
            assert f"| {name} | {split} | {figures} |" in README
    for name in MODELS:
        told = ACCOUNT["models"][name]
        line = rf"\| {name} \| .* \| {told['parameters']:,} \| {told['bytes'] / 1e6:.2f} MB \|"
        assert re.search(line, README), line
    assert f"{ACCOUNT['blind_pairs']['pairs']:,} CLIP-blind pairs" in README
