"""The demo's models and recipe, over several worlds: what it shows must hold with margin."""

import itertools
import subprocess
import sys
from pathlib import Path
from statistics import mean

import pytest

from cli import demonstration
from config.errors import InputError
from config.recipe import load_recipe
from miniature.model_service import ModelService
from miniature.server import StandInServer
from sources.spec import InputSpec
from storage.catalog import query
from storage.root import Root

SCENES = 60


@pytest.fixture(scope="module")
def models():
    weights = demonstration.WEIGHTS
    service = ModelService.load(weights / "captioner", weights / "reference")
    with StandInServer(service=service) as server:
        yield server


@pytest.mark.parametrize("seed", [11, 12, 13])
def test_rejected_texts_hallucinate_and_chosen_ones_do_not(
    seed, tmp_path, models, build, make_settings
):
    scenes = demonstration.draw(tmp_path / "world", SCENES, seed)
    recipe = load_recipe(demonstration.write_recipe(tmp_path, demonstration.WEIGHTS, k=3))
    spec = InputSpec(location=str(tmp_path / "world" / "prompts.jsonl"))
    build(tmp_path / "root", recipe, make_settings(models.base_url), spec)
    root = Root(tmp_path / "root")
    chosen, rejected, neighbour = demonstration.truths(root, scenes)
    assert chosen["texts"] > SCENES / 3
    assert chosen["false"] < 0.02 * chosen["claims"]
    assert neighbour["false"] < 0.02 * neighbour["claims"]
    assert rejected["false"] > 0.15 * rejected["claims"]
    pairs = query(root, "SELECT DISTINCT image, neighbour FROM preferences").to_pylist()
    near = mean(shared(scenes[row["image"]], scenes[row["neighbour"]]) for row in pairs)
    any_two = mean(shared(one, other) for one, other in itertools.combinations(scenes.values(), 2))
    assert near > any_two + 0.1


def shared(one, other):
    """Objects in both scenes, of those in either."""
    first, second = set(one.objects), set(other.objects)
    return len(first & second) / len(first | second)


def test_missing_weights_are_named(tmp_path):
    with pytest.raises(InputError, match=r"clip is missing: train the demo's models"):
        demonstration.write_recipe(tmp_path, tmp_path / "none")


def test_the_demo_brings_prefect_only_when_its_settings_are_made():
    code = "import sys, cli.demonstration; print('prefect' in sys.modules)"
    found = subprocess.run(
        [sys.executable, "-c", code], cwd=Path(__file__).parents[2], capture_output=True, text=True,
        check=True,
    )  # fmt: skip
    assert found.stdout.strip() == "False"
