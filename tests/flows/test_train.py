"""The flow around a training process: its lines, its checkpoint, its end."""

from __future__ import annotations

import json
import sys

import pytest

from config.errors import RecipeError, StageStopped, TrainingError
from flows import train as flow_module
from storage.root import Root

RESULT = {
    "recipe": {"name": "small"},
    "checkpoint": "/runs/small/checkpoints/step-00000004",
    "model": "/runs/small/model",
    "steps": 4,
    "rows": 10,
    "seed": 0,
    "recipe_digest": "a" * 32,
    "dataset": "d" * 32,
    "trains": {"language": 5},
    "refused": {"too_long": 2},
}


@pytest.fixture(scope="module")
def prefect():
    from prefect.testing.utilities import prefect_test_harness

    with prefect_test_harness(server_startup_timeout=120):
        yield


@pytest.fixture(autouse=True)
def gpus_of_its_own(monkeypatch, tmp_path):
    """Another training on this machine is nothing to wait for."""
    monkeypatch.setattr(flow_module, "lock_folder", lambda: tmp_path)


@pytest.fixture
def data(tmp_path):
    """A root whose newest dataset is `dd...`, and that has an older one."""
    root = Root(tmp_path / "set")
    for digest in ("d" * 32, "e" * 32):
        root.write_json(f"datasets/{digest}/manifest.json", {})
    root.write_json("current.json", {"ingest": None, "digests": {}, "dataset": "d" * 32})
    return root.path


def process(monkeypatch, code):
    """Training is `code`; gives the arguments that each start was given."""
    started = []

    def command(*arguments):
        started.append(arguments)
        return [sys.executable, "-c", code]

    monkeypatch.setattr(flow_module, "training_command", command)
    return started


def test_the_process_is_the_one_started_by_hand():
    made = flow_module.training_command("small", "/data/set", "/runs/small", ["seed=1"])
    assert made[1:] == [
        "-m", "train.launch", "small", "--data", "/data/set", "--out", "/runs/small",
        "--set", "seed=1",
    ]  # fmt: skip


def test_lines_are_told_and_losses_and_checkpoint_are_recorded(
    prefect, monkeypatch, tmp_path, data
):
    from prefect.client.orchestration import get_client

    (tmp_path / "result.json").write_text(json.dumps(RESULT))
    metrics = "".join(
        json.dumps({"step": step, "loss": 1.0 / step}) + "\n" for step in (1, 2, 3, 4)
    )
    (tmp_path / "metrics.jsonl").write_text(metrics)
    process(monkeypatch, "print('step 2/4  loss 1'); print(); print('step 4/4  loss 0.5')")
    told = []
    token = flow_module.TELL.set(told.append)
    try:
        assert flow_module.train(data, "small", out=str(tmp_path)) == RESULT
    finally:
        flow_module.TELL.reset(token)
    assert told == ["step 2/4  loss 1", "step 4/4  loss 0.5"]
    with get_client(sync_client=True) as client:
        artifacts = client.read_artifacts()
    shown = {artifact.key: artifact.data for artifact in artifacts if artifact.key}
    assert RESULT["checkpoint"] in shown["checkpoint"]
    assert shown["losses"].startswith("# Step 4\n")
    assert [a.data for a in artifacts if a.type == "progress"] == [100.0]


@pytest.mark.parametrize(("code", "kind"), [(130, StageStopped), (1, TrainingError)])
def test_the_process_last_words_are_the_error(prefect, monkeypatch, tmp_path, data, code, kind):
    process(monkeypatch, f"import sys; print('loss is nan; last good: x'); sys.exit({code})")
    with pytest.raises(kind, match="loss is nan; last good: x"):
        flow_module.train(data, "small", out=str(tmp_path))


@pytest.mark.parametrize(
    ("given", "digest"),
    [
        ({}, "d" * 32),
        ({"dataset": "e" * 32}, "e" * 32),
        ({"overrides": [f"data.digest={'e' * 32}"]}, "e" * 32),
    ],
)
def test_a_training_is_pinned_to_one_dataset(prefect, monkeypatch, tmp_path, data, given, digest):
    (tmp_path / "result.json").write_text(json.dumps(RESULT))
    started = process(monkeypatch, "pass")
    flow_module.train(data, "small", out=str(tmp_path), **given)
    assert started[0][3] == [f"data.digest={digest}"]


def test_a_dataset_that_is_not_there_is_refused_with_those_that_are(data):
    with pytest.raises(RecipeError, match="no dataset 'f'; it has .*" + "d" * 32):
        flow_module.check_dataset(data, "f")


def test_a_root_without_a_dataset_is_refused(tmp_path):
    with pytest.raises(RecipeError, match="has no dataset yet"):
        flow_module.check_dataset(str(tmp_path), None)


def test_the_folder_names_recipe_dataset_and_overrides(monkeypatch, tmp_path):
    monkeypatch.setenv("VISPREF_RUNS_DIR", str(tmp_path))
    plain = flow_module.default_out("small", "d" * 32, [])
    assert plain == tmp_path / "small-dddddddddddd"
    one = flow_module.default_out("/my/own.yaml", "d" * 32, ["seed=1"])
    assert one.name.startswith("own-dddddddddddd-")
    assert one != flow_module.default_out("/my/own.yaml", "d" * 32, ["seed=2"])


@pytest.mark.parametrize(
    ("recipe", "overrides", "processes"),
    [
        ("miniature-symmpo", [], 1),
        ("miniature-symmpo", ["processes=4"], 4),
        ("miniature-symmpo", ["processes=4", "processes=2"], 2),
        ("not-there", [], 1),  # the process says what is wrong
    ],
)
def test_a_training_takes_a_gpu_for_each_of_its_processes(recipe, overrides, processes):
    assert flow_module.processes_of(recipe, overrides) == processes


def test_a_shipped_recipe_of_many_processes_takes_as_many():
    import yaml

    for path in flow_module.RECIPES.glob("*.yaml"):
        expected = yaml.safe_load(path.read_text()).get("processes", 1)
        assert flow_module.processes_of(path.stem, []) == expected
