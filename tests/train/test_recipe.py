"""Training recipes: the shipped ones parse; what would train the wrong thing is refused."""

from __future__ import annotations

import pytest
from accelerate.commands.config.config_args import load_config_from_file

from config.errors import RecipeError
from train.launch import CONFIGURATIONS, command
from train.loop import learning_rate
from train.recipe import load_recipe, parse_recipe, recipe_names

ADAPTER = {"adapter": "runs/sft/adapter"}


def changed(**sections):
    base = {
        "name": "test",
        "model": {"path": "some/model"},
        "objective": {"name": "symmpo"},
        "optimiser": {"learning_rate": 1e-5},
    }
    return {name: {**base.get(name, {}), **sections[name]} for name in sections} | {
        name: value for name, value in base.items() if name not in sections
    }


def test_the_shipped_recipes_have_the_papers_values():
    assert len(recipe_names()) == 10
    for name in recipe_names():
        assert load_recipe(name).name == name
    for size in ("7b", "13b"):
        found = load_recipe(f"llava-1.5-{size}-symmpo")
        parameters = found.objective.loss.parameters(found.objective.parameters)
        assert parameters == {"beta": 0.1, "lambda": 0.5, "gamma": 1e-4, "eta": 1.0, "delta": 0.0}
        assert (found.optimiser.learning_rate, found.optimiser.epochs) == (5e-6, 2)
        assert (found.batch.rows, found.processes) == (64, 4)
    jompo = load_recipe("llava-1.5-7b-jompo")
    assert jompo.objective.parameters == {"beta": 0.05}
    assert (jompo.optimiser.learning_rate, jompo.batch.rows) == (5e-7, 4 * 8 * 8)
    assert (jompo.trained.rank, jompo.trained.alpha) == (256, 512)
    assert set(jompo.trained.parts) == {"language", "vision", "projector"}


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"model": ADAPTER, "reference": {"kind": "adapter-off"}}, "unmerged adapter runs/sft"),
        ({"trained": {"method": "full"}, "reference": {"kind": "adapter-off"}}, "own reference"),
        ({"reference": {"kind": "frozen-adapter"}}, "names none to freeze"),
        ({"reference": {"kind": "none"}}, "symmpo needs one"),
        ({"objective": {"name": "sft"}}, "sft does not use"),
        ({"reference": {"kind": "adapter-off", "path": "x"}}, "loads no model"),
        ({"model": ADAPTER, "trained": {"method": "full"}}, "merge the adapter first"),
        ({"objective": {"name": "simpo"}}, "no objective 'simpo'"),
        ({"objective": {"parameters": {"lambd": 1.0}}}, "Did you mean 'lambda'"),
        ({"optimiser": {"learning_rat": 1.0}}, "did you mean 'learning_rate'"),
        ({"modle": {}}, "did you mean 'model'"),
        ({"optimiser": {"learning_rate": -1.0}}, "optimiser.learning_rate"),
    ],
)
def test_a_wrong_recipe_is_refused_with_the_reason(sections, message):
    with pytest.raises(RecipeError, match=message):
        parse_recipe(changed(**sections))


def test_overrides_and_unknown_names():
    found = load_recipe("miniature-symmpo", {"optimiser.learning_rate": 1e-3, "seed": 4})
    assert (found.optimiser.learning_rate, found.seed) == (1e-3, 4)
    assert found.digest != load_recipe("miniature-symmpo").digest
    with pytest.raises(RecipeError, match="Did you mean 'miniature-symmpo'"):
        load_recipe("miniature-sympo")


def test_the_learning_rate_warms_up_and_falls_to_zero():
    made = parse_recipe(changed(optimiser={"learning_rate": 1.0, "warmup": 0.1}))
    rates = [learning_rate(made, step, 100) for step in range(100)]
    assert rates[:10] == pytest.approx([0.1 * n for n in range(1, 11)])
    assert rates[10] == 1.0
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[-1] < 1e-3


def test_the_launch_follows_the_recipe_and_the_machine():
    big = load_recipe("llava-1.5-7b-symmpo")
    made = command(big, 4, ["llava-1.5-7b-symmpo"])
    assert str(CONFIGURATIONS / "fsdp2.yaml") in made
    assert made[made.index("--num_processes") + 1] == "4"
    with pytest.raises(RecipeError, match="processes=2"):
        command(big, 2, [])
    with pytest.raises(RecipeError, match="launch=ddp"):
        command(big, 0, [])
    two = parse_recipe(changed() | {"processes": 2})
    assert "torch.distributed.run" in command(two, 0, [])
    assert command(load_recipe("miniature-dpo"), 0, ["x"])[-2:] == ["train", "x"]


@pytest.mark.parametrize("name", ["ddp", "fsdp2", "deepspeed"])
def test_the_configurations_are_ones_accelerate_takes(name):
    found = load_config_from_file(str(CONFIGURATIONS / f"{name}.yaml"))
    assert found.num_machines == 1
