"""One training run, by the steps of `python -m train`, and what it is measured by.

Where the loop writes checkpoints, a run of half a minute keeps its weights at the end only.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

from config.errors import StorageError
from experiments.data import root_of
from experiments.measures import PAIR, answer_scores, drift, log_probs, pair_measures
from experiments.plan import ARMS, NEAREST, Job
from miniature.making.evaluate import load
from miniature.scenes import make_scenes
from storage.root import Root
from train.encode import EncodedRow, Encoder
from train.guards import Watch
from train.loop import check_first_batch, one_step, stop_if_lost
from train.models import load_processor
from train.objectives import Combination
from train.objectives.symmpo import M_YW
from train.recipe import Recipe, parse_recipe
from train.rows import read_dataset
from train.scoring import Scorer
from train.setup import Run, make_accelerator, open_run

BASE = "base"
SELECTION_KINDS = ("describe", "thorough", "yes_no")  # what the rate is chosen by; cheap
TEST_KINDS = ("describe", "thorough", "count", "yes_no", "at")
DRIFT_ROWS = 100  # training rows on which the chosen answer's drift is measured
MAX_TOKENS = 512


@dataclass(frozen=True)
class Setting:
    """Where an experiment's runs find and leave things.

    scenes: (validation, test). step: rows of an optimiser step.
    """

    out: Path
    weights: Path
    variants: Mapping[str, str]
    scenes: tuple[int, int] = (200, 400)
    step: int = 16

    @property
    def reference(self) -> Path:
        return self.weights / "reference"

    @property
    def root(self) -> Root:
        return Root(root_of(self.out / "dataset"))

    def result_path(self, part: str, job: Job) -> Path:
        return self.out / part / f"{job.name}.json"


def recipe_of(job: Job, setting: Setting) -> Recipe:
    """The training recipe: full fine-tuning of language model and projector, the papers' weights."""
    arm = ARMS[job.arm]
    return parse_recipe({
        "name": job.name,
        "seed": job.seed,
        "model": {"path": str(setting.reference), "dtype": "float32", "precision": "no"},
        "trained": {"method": "full", "parts": ["language", "projector"]},
        "objective": {"name": arm.objective, "parameters": dict(arm.parameters)},
        "reference": {"kind": "none" if arm.objective == "sft" else "cache"},
        "data": {"digest": setting.variants[arm.neighbours], "max_tokens": MAX_TOKENS},
        "batch": {"rows": setting.step, "tokens": 8192, "gradient_checkpointing": False},
        "optimiser": {"learning_rate": job.rate, "epochs": 2},
        "trackers": [],
    })  # fmt: skip


def train_run(job: Job, setting: Setting) -> dict[str, Any]:
    """Trains, measures on validation scenes and held-out pairs, and keeps weights and result.

    A finished run is read, not repeated. Raises StorageError for one of another recipe, and what
    training raises.
    """
    recipe = recipe_of(job, setting)
    path = setting.result_path("runs", job)
    known = _known(path, recipe)
    if known is not None:
        return known
    began = time.process_time()
    accelerator = make_accelerator(recipe, setting.out)
    run = open_run(recipe, setting.root, setting.out / "training", accelerator, _silent)
    held_out, seen = held_out_rows(setting), training_rows(setting)
    before = log_probs(run.policy, held_out), log_probs(run.policy, seen)
    losses = steps(run)
    trained = time.process_time() - began
    after = log_probs(run.policy, held_out), log_probs(run.policy, seen)
    result = {
        "job": asdict(job),
        "recipe": recipe.digest,
        "rows": len(run.rows.rows),
        "loss": {"first": losses[0], "last": losses[-1]},
        "drift": drift(after[1], before[1]),
        **pair_measures(after[0], before[0]),
        **answer_scores(
            run.policy.model,
            run.rows.encoder.processor,
            make_scenes(setting.scenes[0], split="validation"),
            SELECTION_KINDS,
        ),
        "train_cpu_s": trained,
        "cpu_s": time.process_time() - began,
    }
    weights = {k: v.contiguous() for k, v in run.policy.model.named_parameters() if v.requires_grad}
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(weights, _weights(path))
    return _write(path, result)


def steps(run: Run) -> list[float]:
    """Trains to the end; the loss of every step. Raises TrainingError for a lost run."""
    watch = Watch.of(run.recipe)
    check_first_batch(run, _silent)
    run.scorer.train()
    losses = []
    for step in range(run.steps):
        metrics = one_step(run, step)
        stop_if_lost(run, watch, step + 1, metrics)
        run.optimizer.step()
        run.optimizer.zero_grad()
        losses.append(metrics["loss"])
    return losses


def test_run(job: Job | None, setting: Setting) -> dict[str, Any]:
    """Scores of a trained run, or of the base model (None), on test scenes; kept and read again."""
    recipe = None if job is None else recipe_of(job, setting)
    path = setting.out / "tests" / f"{BASE if job is None else job.name}.json"
    known = _known(path, recipe)
    if known is not None:
        return known
    model, processor = load(setting.reference)
    if job is not None:
        weights = load_file(_weights(setting.result_path("runs", job)))
        model.load_state_dict(weights, strict=False)
    result = {
        "job": None if job is None else asdict(job),
        "recipe": None if recipe is None else recipe.digest,
        **answer_scores(model, processor, make_scenes(setting.scenes[1], split="test"), TEST_KINDS),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    return _write(path, result)


def base_on_validation(setting: Setting) -> dict[str, Any]:
    """The base model's scores on validation scenes and its telling apart of held-out pairs."""
    path = setting.out / "runs" / f"{BASE}.json"
    known = _known(path, None)
    if known is not None:
        return known
    model, processor = load(setting.reference)
    scenes = make_scenes(setting.scenes[0], split="validation")
    found = log_probs(Scorer(model), held_out_rows(setting))
    result = {
        "job": None,
        "recipe": None,
        "drift": 0.0,
        **pair_measures(found, found),
        **answer_scores(model, processor, scenes, SELECTION_KINDS),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    return _write(path, result)


def held_out_rows(setting: Setting) -> tuple[EncodedRow, ...]:
    """The dataset's validation rows with their mined neighbours."""
    url, model = setting.root.url, str(setting.reference)
    return encoded(url, model, setting.variants[NEAREST], "validation", PAIR)


def training_rows(setting: Setting) -> tuple[EncodedRow, ...]:
    """Rows that are trained on, with the chosen answer only, which all variants share."""
    url, model = setting.root.url, str(setting.reference)
    return encoded(url, model, setting.variants[NEAREST], "train", (M_YW,))[:DRIFT_ROWS]


@lru_cache(maxsize=4)  # the runs of a worker process share them
def encoded(
    root_url: str, model: str, dataset: str, split: str, combinations: tuple[Combination, ...]
) -> tuple[EncodedRow, ...]:
    """Rows of one split, ready to be scored. Raises RefusedRow for one that cannot be."""
    root = Root(root_url)
    encoder = Encoder(load_processor(model), combinations, root.read_bytes, MAX_TOKENS)
    rows = read_dataset(root, combinations, split, dataset).rows
    return tuple(encoder.encode(row) for row in rows)


def _weights(path: Path) -> Path:
    return path.with_suffix(".safetensors")


def _known(path: Path, recipe: Recipe | None) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    if found["recipe"] != (None if recipe is None else recipe.digest):
        raise StorageError(
            f"{path} is of another recipe than this experiment's: give another --out"
        )
    return found


def _write(path: Path, result: dict[str, Any]) -> dict[str, Any]:
    """Whole or not at all: what is there is a finished run."""
    partial = path.with_name(f".{path.name}")
    partial.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    os.replace(partial, path)
    return result


def _silent(text: str) -> None:
    return
