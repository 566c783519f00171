"""Training as a flow: the same process as by hand, its lines in the log, its checkpoint an artifact."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import yaml
from prefect import flow, get_run_logger

from config.digest import digest
from config.errors import RecipeError
from config.settings import load_settings
from flows.forms import Evaluation
from storage.catalog import read_current
from storage.root import Root
from tasks.gpus import lent, lock_folder, visible_gpus
from tasks.processes import run_program
from tasks.scoring import score_reference
from tasks.training import TrainingProgress, publish_checkpoint, publish_comparison

RECIPES = Path(__file__).parents[1] / "train" / "recipes"
PINNED = "data.digest="  # the override that says which dataset
# How a terminal is shown the process's lines; a deployment's log is told instead.
TELL: ContextVar[Callable[[str], None] | None] = ContextVar("tell", default=None)


def training_command(recipe: str, data: str, out: str | None, overrides: list[str]) -> list[str]:
    """The process. It is started as a program of its own: nothing of the pipeline imports `train`."""
    command = [sys.executable, "-m", "train.launch", recipe, "--data", data]
    command += [] if out is None else ["--out", out]
    return command + [part for pair in overrides for part in ("--set", pair)]


@flow(name="train", flow_run_name="train {recipe} on {data}", persist_result=False)
def train(
    data: str,
    recipe: str = "llava-1.5-7b-symmpo",
    dataset: str | None = None,
    out: str | None = None,
    overrides: list[str] | None = None,
    evaluation: Evaluation = Evaluation.NONE,
) -> dict[str, Any]:
    """Trains a model on a dataset, or goes on with a training that was stopped.

    Started again with the same values it goes on from its last checkpoint; one that is finished
    is not done again.

    Args:
        data: The dataset's root: a folder, or a URL such as s3://bucket/set.
        recipe: The training recipe: a name of train/recipes, or a YAML file's path.
        dataset: The digest of the dataset. Empty: the newest of the root.
        out: The folder of checkpoints, logs and the trained model. Empty: one under
            VISPREF_RUNS_DIR, named by recipe and dataset.
        overrides: KEY=VALUE of the recipe, e.g. optimiser.epochs=1.
        evaluation: What is measured before and after. miniature: the small world's own model.

    Gives result.json's content. Raises StageStopped after a signal, TrainingError with the
    process's last words otherwise.
    """
    say = TELL.get() or get_run_logger().info
    given = [pair for pair in overrides or [] if not pair.startswith(PINNED)]
    pinned = [pair.removeprefix(PINNED) for pair in overrides or [] if pair.startswith(PINNED)]
    dataset = check_dataset(data, dataset or (pinned or [None])[-1])
    folder = Path(out) if out else default_out(recipe, dataset, given)
    values = [*given, f"{PINNED}{dataset}"]
    score_reference(load_settings(), recipe, data, values, say)
    progress = TrainingProgress(folder / "metrics.jsonl")

    def line(text: str) -> None:
        say(text)
        found = re.match(r"step (\d+)/(\d+) ", text)
        if found:
            progress.show(100.0 * int(found[1]) / int(found[2]))

    count = processes_of(recipe, given)
    with lent(count, visible_gpus(), lock_folder(), say) as gpus:
        run_program(
            training_command(recipe, data, str(folder), values),
            line,
            what="training",
            environment=gpus.environment,
            keep=gpus.locks,
        )
        progress.show(100.0)
        result: dict[str, Any] = json.loads((folder / "result.json").read_text(encoding="utf-8"))
        publish_checkpoint(result)
        if evaluation is Evaluation.MINIATURE:
            publish_comparison(compare(result, folder, say))
    return result


def check_dataset(data: str, dataset: str | None) -> str:
    """The digest of a dataset that is whole. Raises RecipeError where there is none."""
    root = Root(data)
    found = dataset or read_current(root)["dataset"]
    if found is None:
        raise RecipeError(f"{root.url} has no dataset yet: build it first")
    if not root.exists(f"datasets/{found}/manifest.json"):
        raise RecipeError(
            f"{root.url} has no dataset {found!r}; it has "
            f"{[path.rsplit('/', 1)[-1] for path in root.list('datasets')]}"
        )
    return found


def default_out(recipe: str, dataset: str, overrides: list[str]) -> Path:
    """One folder for each recipe, its overrides and a dataset."""
    name = f"{Path(recipe).stem}-{dataset[:12]}"
    if overrides:
        name += f"-{digest(sorted(overrides))[:8]}"
    return load_settings().runs_dir.expanduser().absolute() / name


def processes_of(recipe: str, overrides: list[str]) -> int:
    """How many processes, and so GPUs, the training takes. What is wrong in it `train` says."""
    for pair in reversed(overrides):
        name, _, value = pair.partition("=")
        if name == "processes" and value.isdecimal():
            return max(1, int(value))
    path = Path(recipe) if Path(recipe).is_file() else RECIPES / f"{recipe}.yaml"
    if not path.is_file():
        return 1
    found = yaml.safe_load(path.read_text(encoding="utf-8"))
    count = found.get("processes", 1) if isinstance(found, dict) else 1
    return count if isinstance(count, int) and count > 0 else 1


def compare(result: dict[str, Any], folder: Path, say: Callable[[str], None]) -> dict[str, Any]:
    """What training changed of the miniature world's model, measured by a process of its own."""
    if "model" not in result:
        raise RecipeError("the trained model was not exported: leave checkpoints.export on")
    say("measuring before and after")
    found = folder / "before-after.json"
    before = result["recipe"]["model"]["path"]
    command = [sys.executable, "-m", "miniature.making.compare", before, result["model"]]
    run_program([*command, "--out", str(found)], say, what="the evaluation")
    compared: dict[str, Any] = json.loads(found.read_text(encoding="utf-8"))
    return compared
