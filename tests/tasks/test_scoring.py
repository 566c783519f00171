"""The reference scored on a runner before training, by real processes of `train`."""

import contextlib
import sys
from pathlib import Path

import pytest
import yaml

from config.errors import TrainingError
from config.settings import Settings
from stages.jobs import answered
from storage.root import Root
from tasks import scoring
from tasks.scoring import score_reference

sys.path.insert(0, str(Path(__file__).parents[1] / "train"))


class Here:
    """A cluster of two slots: this process's threads."""

    def slots(self):
        return 2

    def call(self, do, text):
        return answered(do, text)

    def drop(self):
        return


@pytest.fixture(scope="module", autouse=True)
def prefect_server():
    from prefect.testing.utilities import prefect_test_harness

    with prefect_test_harness(server_startup_timeout=120):
        yield


@pytest.fixture
def score(monkeypatch):
    """score(recipe, data, overrides=()) -> lines, in a flow on a runner."""
    from prefect import flow

    monkeypatch.setattr(scoring, "cluster_of", lambda _: contextlib.nullcontext(Here()))
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")

    def run(recipe, data, overrides=()):
        lines = []

        @flow(name="scoring", persist_result=False)
        def whole():
            settings = Settings(runner={"kind": "ray"})
            score_reference(settings, str(recipe), str(data), list(overrides), lines.append)

        whole()
        return lines

    return run


def test_the_local_runner_leaves_it_to_training(monkeypatch):
    monkeypatch.setattr(scoring, "cluster_of", None)
    score_reference(Settings(), "small", "/data", [], print)


def test_a_shard_is_one_process_whatever_training_takes():
    job = {"recipe": "big", "data": "s3://b/set", "overrides": ["processes=8"], "shard": "2/4"}
    assert scoring.scoring_command(job)[1:] == [
        "-m", "train.launch", "big", "--data", "s3://b/set", "--score-reference", "--shard", "2/4",
        "--set", "processes=8", "--set", "processes=1", "--set", "launch=ddp",
    ]  # fmt: skip


@pytest.mark.slow  # each shard imports torch and transformers anew
def test_shards_fill_the_cache_and_a_reference_in_memory_needs_none(score, tmp_path):
    from loop_helpers import values, write_dataset, write_model

    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(values(write_model(tmp_path / "model"))))
    write_dataset(tmp_path / "data")
    lines = score(recipe, tmp_path / "data")
    assert sum("the reference of 5 rows is in the cache" in line for line in lines) == 2
    files = Root(tmp_path / "data").walk("references")
    assert {path.split(".", 1)[1] for path in files} == {"1-of-2.parquet", "2-of-2.parquet"}
    told = score(recipe, tmp_path / "data", ["reference.kind=second-model"])
    assert sum("nothing to score" in line for line in told) == 2


@pytest.mark.slow  # starts processes of train
def test_what_a_process_refuses_is_the_error(score, tmp_path):
    with pytest.raises(TrainingError, match="not-there"):
        score("not-there", tmp_path)
