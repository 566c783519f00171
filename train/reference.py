"""pi_ref's log-probabilities: from a cache on disk, or from a model beside the policy.

none            the objective has no reference (sft)
cache           scored once before training and kept in Parquet beside the dataset
adapter-off     the policy without its LoRA adapter
frozen-adapter  the policy with a frozen copy of the adapter it started from
second-model    another model in memory

`train.recipe.wrong_reference` refuses what would silently be the wrong one. All are scored by the
policy's layout, attention and precision: in bf16 another layout is 0.1 nats off over 100 tokens.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from train.encode import EncodedRow
from train.models import FROZEN, load_base
from train.objectives import LogProbs
from train.recipe import Recipe
from train.scoring import Scorer

Autocast = Callable[[], contextlib.AbstractContextManager[Any]]


@contextlib.contextmanager
def still(module: nn.Module) -> Iterator[None]:
    """No dropout and no gradients."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for part, training in modes:
            part.training = training


@dataclass
class NoReference:
    def __call__(self, rows: list[EncodedRow]) -> LogProbs | None:
        return None


@dataclass
class FromModel:
    """Scores with `scorer` inside `switched`, a context that turns the policy into the reference."""

    scorer: Scorer
    switched: Callable[[], contextlib.AbstractContextManager[Any]]
    autocast: Autocast

    def __call__(self, rows: list[EncodedRow]) -> LogProbs | None:
        with still(self.scorer), self.switched(), self.autocast():
            return dict(self.scorer(rows))


def from_model(
    recipe: Recipe, policy: Scorer, device: torch.device, autocast: Autocast
) -> FromModel:
    """The reference that needs a model in memory at every step."""
    kind = recipe.reference.kind
    if kind == "adapter-off":
        return FromModel(policy, policy.model.disable_adapter, autocast)
    if kind == "frozen-adapter":
        return FromModel(policy, lambda: _other_adapter(policy.model), autocast)
    return FromModel(second(recipe, device), contextlib.nullcontext, autocast)


def second(recipe: Recipe, device: torch.device) -> Scorer:
    """The model of reference.path, or the one training starts from, frozen."""
    model = load_base(recipe.model, recipe.reference.path).requires_grad_(False)
    if recipe.model.adapter is not None and recipe.reference.path is None:
        from peft import PeftModel

        from train.models import directory_of

        model = PeftModel.from_pretrained(model, directory_of(recipe.model.adapter))
    return Scorer(model.to(device), recipe.batch.layout, recipe.batch.head_chunk).eval()


@contextlib.contextmanager
def _other_adapter(model: Any) -> Iterator[None]:
    trains = {name: value.requires_grad for name, value in model.named_parameters()}
    model.set_adapter(FROZEN)
    try:
        yield
    finally:
        model.set_adapter("default")
        for name, value in model.named_parameters():  # PEFT sets these with the adapter
            value.requires_grad_(trains[name])
