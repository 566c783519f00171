"""Puts a run together: data, model, optimizer, reference, checkpoints."""

from __future__ import annotations

import platform
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.utils import DistributedType

from config.errors import RecipeError, TrainingError
from storage.root import Root
from train.batches import steps_per_epoch
from train.cache import Shard, key_of, open_cache, path_of
from train.checkpoint import Checkpoints
from train.data import Rows, survey
from train.encode import EncodedRow, Encoder
from train.estimate import Shape, shape_of
from train.guards import check_start
from train.models import describe, load_policy, load_processor
from train.objectives import LogProbs
from train.processes import Processes
from train.recipe import Recipe
from train.reference import NoReference, from_model, second, still
from train.rows import Dataset, read_dataset
from train.scoring import Scorer

PACKAGES = ("torch", "transformers", "accelerate", "peft", "safetensors", "tokenizers", "pillow")
ReferenceFn = Callable[[list[EncodedRow]], LogProbs | None]


@dataclass
class Run:
    """All that the loop holds. `scorer` is what trains, perhaps wrapped; `policy` the same bare."""

    recipe: Recipe
    accelerator: Accelerator
    processes: Processes
    rows: Rows
    dataset: Dataset
    scorer: Any
    policy: Scorer
    optimizer: Any
    reference: ReferenceFn
    checkpoints: Checkpoints
    shape: Shape
    steps: int

    @property
    def about(self) -> dict[str, Any]:
        """What stands beside every checkpoint."""
        return {
            "recipe": self.recipe.model_dump(mode="json"),
            "recipe_digest": self.recipe.digest,
            "dataset": self.dataset.digest,
            "rows": len(self.rows.rows),
            "refused": dict(self.dataset.refused + self.rows.refused),
            "steps": self.steps,
            "seed": self.recipe.seed,
            "processes": self.processes.count,
            "trains": self.shape.parts,
            "versions": {name: version(name) for name in PACKAGES}
            | {"python": platform.python_version()},
        }


def make_accelerator(recipe: Recipe, out: Path | None) -> Accelerator:
    """Gradients are reduced at the last forward of a step, which the loop says itself.

    out: where trackers write; None for a run that tracks nothing.
    """
    accelerator = Accelerator(
        mixed_precision=recipe.model.precision,
        log_with=list(recipe.trackers) or None if out else None,
        project_dir=str(out / "logs") if out else None,
        kwargs_handlers=[DistributedDataParallelKwargs(broadcast_buffers=False)],
    )
    if accelerator.distributed_type == DistributedType.DEEPSPEED:
        # It asks for a number no loader gives here; forwards have as many rows as fit.
        config = accelerator.state.deepspeed_plugin.deepspeed_config
        config["train_micro_batch_size_per_gpu"] = 1
    return accelerator


def open_rows(
    recipe: Recipe, root: Root, processor: Any, processes: Processes, shard: Shard | None = None
) -> tuple[Dataset, Rows]:
    """The dataset's rows that this run trains on, or a shard of them.

    Raises StorageError, TrainingError if there is none.
    """
    combinations = recipe.objective.loss.combinations
    dataset = read_dataset(root, combinations, recipe.data.split, recipe.data.digest)
    encoder = Encoder(processor, combinations, root.read_bytes, recipe.data.max_tokens)
    own = dataset.rows if shard is None else shard.of(dataset.rows)
    rows = survey(encoder, own, recipe.batch.layout, processes)
    if not rows.rows and shard is None:
        raise TrainingError(
            f"no row of dataset {dataset.digest} can be trained on; refused: "
            f"{dict(rows.refused)}. {' '.join(rows.examples.values())}"
        )
    return dataset, rows


def open_run(
    recipe: Recipe, root: Root, out: Path, accelerator: Accelerator, say: Callable[[str], None]
) -> Run:
    processes = Processes(accelerator)
    processor = load_processor(recipe.model.path)
    dataset, rows = open_rows(recipe, root, processor, processes)
    for reason, count in sorted((dataset.refused + rows.refused).items()):
        example = {**rows.examples, **dataset.examples}[reason]
        say(f"refused {count} rows: {reason}, e.g. {example}")
    model = load_policy(recipe)
    shape = shape_of(model)
    say(f"trains: {', '.join(f'{part} {n:,}' for part, n in sorted(describe(model).items()))}")
    bare = Scorer(model, recipe.batch.layout, recipe.batch.head_chunk)
    optimizer = torch.optim.AdamW(
        [value for value in bare.parameters() if value.requires_grad],
        lr=recipe.optimiser.learning_rate,
        betas=recipe.optimiser.betas,
        weight_decay=recipe.optimiser.weight_decay,
    )
    scorer, wrapped = accelerator.prepare(bare, optimizer)
    policy = accelerator.unwrap_model(scorer)
    reference = open_reference(recipe, root, dataset, rows, policy, accelerator, say)
    checkpoints = Checkpoints(out, recipe.checkpoints.keep, accelerator, scorer, wrapped, processor)
    epochs = steps_per_epoch(len(rows.rows), recipe.batch.rows) * recipe.optimiser.epochs
    steps = min(epochs, recipe.optimiser.max_steps or epochs)
    return Run(
        recipe, accelerator, processes, rows, dataset, scorer, policy, wrapped, reference,
        checkpoints, shape, steps,
    )  # fmt: skip


def open_reference(
    recipe: Recipe,
    root: Root,
    dataset: Dataset,
    rows: Rows,
    policy: Scorer,
    accelerator: Accelerator,
    say: Callable[[str], None],
    shard: Shard | None = None,
) -> ReferenceFn:
    """See train/reference.py. Must come before a checkpoint's weights are put into the policy."""
    if recipe.reference.kind == "none":
        return NoReference()
    if recipe.reference.kind != "cache":
        return from_model(recipe, policy, accelerator.device, accelerator.autocast)
    processes = Processes(accelerator)
    other = recipe.reference.path is not None
    scorer = second(recipe, accelerator.device) if other else policy
    keys = [key_of(recipe, rows.encoder.processor, rows.encoder.crop_area)]
    path = path_of(dataset.digest, processes.gather(keys)[0])

    def score(batch: list[EncodedRow]) -> LogProbs:
        with still(scorer), accelerator.autocast():
            return dict(scorer(batch))

    cached = open_cache(
        root, path, rows, recipe.objective.loss.combinations, score, recipe.batch.tokens,
        processes, accelerator.device, say, shard,
    )  # fmt: skip
    if other:  # the policy cannot vouch for it at step 0
        sample = [rows[number] for number in range(min(recipe.guards.rows, len(rows.rows)))]
        check_start(sample, score(sample), cached(sample), recipe.reference_tolerance, path)
    return cached


def check_same_run(run: Run, about: dict[str, Any], path: Path) -> None:
    """Raises RecipeError where a checkpoint is of another run than this one."""
    ours = run.recipe.model_dump(mode="json")
    free = ("processes", "launch", "trackers", "checkpoints", "guards")
    changed = [key for key in ours if key not in free and ours[key] != about["recipe"].get(key)]
    if about["dataset"] != run.dataset.digest:
        changed.append("dataset")
    if changed:
        raise RecipeError(
            f"{path} was made with another {', '.join(changed)}; go on with the same, or give a "
            "new --out"
        )
