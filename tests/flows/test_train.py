"""The flow around a training process: its lines, its checkpoint, its end."""

from __future__ import annotations

import json
import sys

import pytest

from config.errors import StageStopped, TrainingError
from flows import train as flow_module
from tasks.training import checkpoint_page

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


def process(monkeypatch, code):
    monkeypatch.setattr(flow_module, "training_command", lambda *_: [sys.executable, "-c", code])


def test_the_process_is_the_one_started_by_hand():
    made = flow_module.training_command("small", "/data/set", "/runs/small", ["seed=1"])
    assert made[1:] == [
        "-m", "train.launch", "small", "--data", "/data/set", "--out", "/runs/small",
        "--set", "seed=1",
    ]  # fmt: skip


def test_lines_are_told_and_the_checkpoint_is_recorded(prefect, monkeypatch, tmp_path):
    from prefect.client.orchestration import get_client

    (tmp_path / "result.json").write_text(json.dumps(RESULT))
    process(monkeypatch, "print('step 2/4  loss 1'); print(); print('step 4/4  loss 0.5')")
    told = []
    token = flow_module.TELL.set(told.append)
    try:
        assert flow_module.train("small", "/data/set", str(tmp_path)) == RESULT
    finally:
        flow_module.TELL.reset(token)
    assert told == ["step 2/4  loss 1", "step 4/4  loss 0.5"]
    with get_client(sync_client=True) as client:
        artifacts = client.read_artifacts()
    shown = {artifact.key: artifact.data for artifact in artifacts if artifact.key}
    assert RESULT["checkpoint"] in shown["checkpoint"]
    assert [a.data for a in artifacts if a.type == "progress"] == [100.0]


@pytest.mark.parametrize(("code", "kind"), [(130, StageStopped), (1, TrainingError)])
def test_the_process_last_words_are_the_error(prefect, monkeypatch, tmp_path, code, kind):
    process(monkeypatch, f"import sys; print('loss is nan; last good: x'); sys.exit({code})")
    with pytest.raises(kind, match="loss is nan; last good: x"):
        flow_module.train("small", "/data/set", str(tmp_path))


def test_the_page_names_what_was_made():
    page = checkpoint_page(RESULT)
    assert "/runs/small/model" in page
    assert "too_long" in page
