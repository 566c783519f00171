"""Whole runs of a tiny LLaVA: processes, interruptions, faults."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import sys
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState

from config.errors import RecipeError, TrainingError
from train import cache, loop
from train.__main__ import arguments
from train.loop import train
from train.objectives import get
from train.score import score_reference

sys.path.insert(0, str(Path(__file__).parent))
from loop_helpers import (
    finish,
    losses,
    metrics,
    recipe,
    start,
    wait_for,
    write_dataset,
    write_model,
)
from safetensors.torch import load_file

LORA = {"method": "lora", "parts": ["language", "vision", "projector"], "rank": 4, "alpha": 8}


@pytest.fixture(autouse=True)
def quiet(monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def root(tmp_path):
    return write_dataset(tmp_path / "data")


def final_weights(out, kind="model"):
    (path,) = (out / "checkpoints" / "step-00000006" / kind).glob("*.safetensors")
    return load_file(path)


def test_a_run_learns_and_says_what_it_did(model, root, tmp_path):
    out = tmp_path / "out"
    result = train(recipe(model), root, out)
    assert losses(out)[0] == pytest.approx(2.7726, abs=1e-3)
    assert losses(out)[-1] < 2.5
    assert result["trains"] == {"language": 20448, "projector": 2112}
    line = metrics(out)[-1]
    for term in ("dpo", "pair", "margin", "ancpo"):
        assert f"terms/{term}" in line
    for which in get("symmpo").combinations:
        assert f"rewards/{which.image}.{which.response}" in line
    assert line["margins/image.chosen_over_image.rejected"] == pytest.approx(
        line["rewards/image.chosen"] - line["rewards/image.rejected"], abs=1e-6
    )
    assert line["log_probs/chosen_drift"] * 0.1 == pytest.approx(line["rewards/image.chosen"])
    assert {"grad_norm", "learning_rate", "speed/tokens_per_s"} <= set(line)
    assert list((out / "logs").rglob("events.out.tfevents*"))
    about = json.loads((Path(result["checkpoint"]) / "run.json").read_text())
    assert about["dataset"] == "d" * 32
    assert about["recipe"]["objective"]["name"] == "symmpo"
    assert torch.__version__.startswith(about["versions"]["torch"])
    assert len(list((out / "checkpoints").iterdir())) == 2


@pytest.mark.parametrize("kind", ["adapter-off", "second-model", "cache"])
def test_two_processes_train_as_one_does(model, root, tmp_path, kind):
    made = recipe(model, trained=LORA, reference={"kind": kind})
    train(made, root, tmp_path / "one")
    assert finish(start(made, root, tmp_path / "two", processes=2)) == [0, 0]
    assert json.loads((tmp_path / "two" / "result.json").read_text())["processes"] == 2
    for name in ("loss", "grad_norm", "rewards/neighbour.chosen"):
        one = [line[name] for line in metrics(tmp_path / "one")]
        two = [line[name] for line in metrics(tmp_path / "two")]
        assert two == pytest.approx(one, rel=1e-4, abs=1e-6), name
    one = final_weights(tmp_path / "one", "adapter")
    two = final_weights(tmp_path / "two", "adapter")
    assert one.keys() == two.keys()
    assert all(torch.allclose(one[name], two[name], atol=1e-4) for name in one)


def test_a_killed_run_goes_on_exactly(model, root, tmp_path):
    trained = {**LORA, "dropout": 0.2}  # so that random numbers count
    made = recipe(
        model,
        trained=trained,
        reference={"kind": "adapter-off"},
        optimiser={"learning_rate": 1e-3, "epochs": 6},
        checkpoints={"every": 3, "keep": 9},
    )
    train(made, root, tmp_path / "whole")
    AcceleratorState._reset_state(reset_partial_state=True)
    out = tmp_path / "killed"
    (process,) = start(made, root, out)
    wait_for((out / "checkpoints" / "step-00000006" / "run.json").exists, process)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert not (out / "result.json").exists()
    train(made, root, out)
    assert losses(out) == losses(tmp_path / "whole")
    assert [line["step"] for line in metrics(out)] == list(range(1, 19))
    last = "checkpoints/step-00000018/adapter/adapter_model.safetensors"
    whole, resumed = load_file(tmp_path / "whole" / last), load_file(out / last)
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_full_training_goes_on_exactly_too(model, root, tmp_path):
    train(recipe(model), root, tmp_path / "whole")
    AcceleratorState._reset_state(reset_partial_state=True)
    out = tmp_path / "again"
    made = recipe(model, checkpoints={"keep": 9})
    train(made, root, out)
    shutil.rmtree(out / "checkpoints" / "step-00000006")
    AcceleratorState._reset_state(reset_partial_state=True)
    train(made, root, out)
    assert losses(out) == losses(tmp_path / "whole")
    one, two = final_weights(tmp_path / "whole"), final_weights(out)
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_a_checkpoint_of_another_run_is_refused(model, root, tmp_path):
    train(recipe(model, optimiser={"max_steps": 2}), root, tmp_path / "out")
    AcceleratorState._reset_state(reset_partial_state=True)
    with pytest.raises(RecipeError, match="made with another optimiser"):
        train(recipe(model, optimiser={"max_steps": 4}), root, tmp_path / "out")


def test_ctrl_c_leaves_a_checkpoint_and_the_same_run_goes_on(model, root, tmp_path):
    made = recipe(model, optimiser={"epochs": 400}, checkpoints={"every": 5000})
    out = tmp_path / "out"
    (process,) = start(made, root, out)
    wait_for(lambda: (out / "metrics.jsonl").exists() and len(metrics(out)) > 2, process)
    os.kill(process.pid, signal.SIGINT)
    assert finish([process]) == [130]
    (checkpoint,) = (out / "checkpoints").iterdir()
    step = json.loads((checkpoint / "run.json").read_text())["step"]
    assert step == len(metrics(out))
    assert str(checkpoint) in (out / "error").read_text()


def test_a_full_disk_keeps_the_last_good_checkpoint(model, root, tmp_path):
    made = recipe(
        model,
        trained=LORA,
        reference={"kind": "adapter-off"},
        optimiser={"epochs": 400},
    )
    out = tmp_path / "out"
    (process,) = start(made, root, out)
    wait_for((out / "checkpoints" / "step-00000002" / "run.json").exists, process)
    written = out / "checkpoints" / "step-00000002" / "optimizer.safetensors"
    limit = written.stat().st_size - 1  # no file can grow as large as a checkpoint's
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    assert finish([process]) == [1]
    left = sorted((out / "checkpoints").iterdir())
    assert left
    assert all((path / "run.json").is_file() and path.name[0] == "s" for path in left)
    assert load_file(left[-1] / "optimizer.safetensors")
    error = (out / "error").read_text()
    assert "File too large" in error
    assert f"The last good checkpoint is {left[-1]}" in error


def test_a_loss_that_is_no_number_stops_the_run(model, root, tmp_path, monkeypatch):
    real = loop.one_step

    def broken(run, step):
        if step == 3:
            next(p for p in run.scorer.parameters() if p.requires_grad).data.fill_(float("nan"))
        return real(run, step)

    monkeypatch.setattr(loop, "one_step", broken)
    with pytest.raises(
        TrainingError, match=r"loss is nan at step 4.*checkpoint is .*step-00000002"
    ):
        train(recipe(model), root, tmp_path / "out")
    assert [path.name for path in (tmp_path / "out" / "checkpoints").iterdir()] == ["step-00000002"]


def test_a_reference_that_is_not_the_policy_stops_at_step_0(model, root, tmp_path):
    train(recipe(model, optimiser={"max_steps": 1}), root, tmp_path / "out")
    (path,) = root.walk("references")
    known = cache.read(root, path)
    cache.write(root, path, {key: value + 0.5 for key, value in known.items()})
    AcceleratorState._reset_state(reset_partial_state=True)
    with pytest.raises(TrainingError, match=r"at step 0 .* row row-\d.*stale cache"):
        train(recipe(model), root, tmp_path / "other")
    assert not (tmp_path / "other" / "checkpoints").exists()


def scored(root):
    (folder,) = root.list("references")
    [name] = {path.rsplit("/", 1)[-1].partition(".")[0] for path in root.list(folder)}
    return cache.read(root, f"{folder}/{name}.parquet")


def test_shards_of_the_reference_are_the_cache_that_training_makes(model, tmp_path, monkeypatch):
    made = recipe(model, trained=LORA, optimiser={"max_steps": 1})
    whole, parted = write_dataset(tmp_path / "whole"), write_dataset(tmp_path / "parted")
    train(made, whole, tmp_path / "one")
    for index in (1, 2, 3):
        AcceleratorState._reset_state(reset_partial_state=True)
        score_reference(made, parted, cache.Shard(index, 3))
    assert len(parted.walk("references")) == 3
    found, expected = scored(parted), scored(whole)
    assert found.keys() == expected.keys()
    assert [found[key] for key in expected] == pytest.approx(list(expected.values()), abs=1e-5)

    def scored_again(*_):
        raise AssertionError("a row was scored again")

    monkeypatch.setattr(cache, "_score", scored_again)
    AcceleratorState._reset_state(reset_partial_state=True)
    train(made, parted, tmp_path / "two")
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), abs=1e-5)


def test_a_shard_without_rows_and_a_reference_in_memory_score_nothing(model, root, capsys):
    score_reference(recipe(model), root, cache.Shard(11, 11))
    assert "no rows" in capsys.readouterr().err
    score_reference(recipe(model, trained=LORA, reference={"kind": "adapter-off"}), root)
    assert "nothing to score" in capsys.readouterr().err
    assert root.walk("references") == set()


@pytest.mark.parametrize("shard", ["0/2", "3/2", "2", "a/b", "1/0"])
def test_a_shard_that_is_none_is_refused(shard, capsys):
    with pytest.raises(SystemExit):
        arguments(["small", "--data", "set", "--score-reference", "--shard", shard])
    assert "expected I/N" in capsys.readouterr().err


def test_training_takes_no_shard(capsys):
    with pytest.raises(SystemExit):
        arguments(["small", "--data", "set", "--out", "out", "--shard", "1/2"])
    assert "training takes all rows" in capsys.readouterr().err
