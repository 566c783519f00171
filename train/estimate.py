"""What a run will need: memory and time, estimated from shapes and a sample of rows."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForImageTextToText

from train.batches import split_step, steps_per_epoch
from train.models import describe, directory_of, prepare
from train.recipe import Recipe
from train.scoring.families import base_model

GIB = 2**30
# Dense bf16 operations a second, by what the device's name has in it.
PEAK = {"H200": 989e12, "H100": 989e12, "A100": 312e12, "L40S": 362e12, "4090": 165e12}
EFFICIENCY = 0.4  # of the peak; what a tuned run of this size reaches


@dataclass(frozen=True)
class Shape:
    """Numbers of a model: parameters, those that train, and the language model's dimensions."""

    parameters: int
    trainable: int
    parts: dict[str, int]
    frozen_bytes: int
    layers: int
    hidden: int
    inner: int
    vocabulary: int

    def flops(self, tokens: float) -> float:
        """Forward 2 a parameter, backward through activations 2, weight gradients 2 where it trains.

        Recomputation under gradient checkpointing is not counted: it is no useful work.
        """
        return tokens * (4 * self.parameters + 2 * self.trainable)


def shape_of(model: Any) -> Shape:
    text = base_model(model).config.get_text_config()
    trains = [p for p in model.parameters() if p.requires_grad]
    frozen = [p for p in model.parameters() if not p.requires_grad]
    return Shape(
        sum(p.numel() for p in model.parameters()),
        sum(p.numel() for p in trains),
        describe(model),
        sum(p.numel() * p.element_size() for p in frozen),
        text.num_hidden_layers,
        text.hidden_size,
        text.intermediate_size,
        text.vocab_size,
    )


def shape_without_weights(recipe: Recipe) -> Shape:
    """From the configuration alone: no weight is read or held."""
    config = AutoConfig.from_pretrained(directory_of(recipe.model.path), trust_remote_code=False)
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(
            config, dtype=getattr(torch, recipe.model.dtype)
        )
        return shape_of(prepare(model, recipe))


def peak_flops(device: str) -> float | None:
    """Of a device by its name, None for one that is not in the table."""
    return next((value for name, value in PEAK.items() if name in device), None)


@dataclass(frozen=True)
class Estimate:
    """Bytes on one process, and the work of the whole run."""

    shape: Shape
    weights: float
    gradients: float
    optimizer: float
    activations: float
    head: float
    reference: float
    steps: int
    tokens: float

    @property
    def total(self) -> float:
        return (
            self.weights
            + self.gradients
            + self.optimizer
            + self.activations
            + self.head
            + self.reference
        )


def estimate(recipe: Recipe, shape: Shape, rows: int, sampled: list[int]) -> Estimate:
    """sampled: token counts of some rows, in the recipe's layout, taken for all `rows`."""
    shards = recipe.processes if recipe.launch != "ddp" else 1
    wide = 2 if recipe.model.precision == "bf16" else 4
    mean = statistics.fmean(sampled)
    step = [sampled[i % len(sampled)] for i in range(min(rows, recipe.batch.rows))]
    plan = split_step(range(len(step)), step, recipe.batch.tokens, recipe.processes)
    padded = max(len(m.rows) * step[m.rows[0]] for own in plan for m in own)
    layer = padded * (10 * shape.hidden + 3 * shape.inner) * wide
    saved = shape.layers * padded * shape.hidden * wide
    checkpointing = recipe.batch.gradient_checkpointing
    second = recipe.reference.kind == "second-model"
    whole = shape.frozen_bytes + 4 * shape.trainable
    epochs = steps_per_epoch(rows, recipe.batch.rows) * recipe.optimiser.epochs
    steps = min(epochs, recipe.optimiser.max_steps or epochs)
    return Estimate(
        shape,
        weights=whole / shards,
        gradients=4 * shape.trainable / shards,
        optimizer=8 * shape.trainable / shards,
        activations=saved + layer if checkpointing else shape.layers * layer,
        head=3 * 4 * recipe.batch.head_chunk * shape.vocabulary,
        reference=whole if second else 0.0,
        steps=steps,
        tokens=mean * min(rows * recipe.optimiser.epochs, steps * recipe.batch.rows),
    )


def report(recipe: Recipe, found: Estimate, rows: int, refused: int, device: str) -> str:
    """The dry run's page."""
    shape = found.shape
    parts = ", ".join(f"{part} {count / 1e6:,.1f}M" for part, count in sorted(shape.parts.items()))
    lines = [
        f"recipe      {recipe.name}: {recipe.objective.name}, {recipe.trained.method}",
        f"rows        {rows} to train on, {refused} refused of those looked at",
        f"parameters  {shape.parameters / 1e6:,.1f}M, of which train {shape.trainable / 1e6:,.1f}M "
        f"({parts})",
        f"steps       {found.steps} of {recipe.batch.rows} rows, {found.tokens / 1e6:,.2f}M tokens",
        f"memory      {found.total / GIB:,.2f} GiB on each of {recipe.processes} (estimate)",
    ]
    for name in ("weights", "gradients", "optimizer", "activations", "head", "reference"):
        lines.append(f"  {name:<12}{getattr(found, name) / GIB:8,.2f} GiB")
    peak = peak_flops(device)
    if peak is None:
        lines.append(f"time        unknown: no peak speed is known for {device}")
    else:
        seconds = shape.flops(found.tokens) / (peak * EFFICIENCY * recipe.processes)
        lines.append(
            f"time        {seconds / 3600:,.1f} h at {EFFICIENCY:.0%} of the peak of "
            f"{recipe.processes} x {device} (estimate)"
        )
    return "\n".join(lines)
