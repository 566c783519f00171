"""The dry run: no weight is read, nothing is written."""

from __future__ import annotations

import random

import torch

from config.digest import seed_of
from config.errors import TrainingError
from storage.root import Root
from train.data import measure
from train.encode import Encoder
from train.estimate import estimate, report, shape_without_weights
from train.models import load_processor
from train.recipe import Recipe
from train.rows import read_dataset

SAMPLE = 64


def dry_run(recipe: Recipe, root: Root) -> str:
    """Memory and time, from the model's configuration and a sample of rows. Raises VisprefError."""
    combinations = recipe.objective.loss.combinations
    dataset = read_dataset(root, combinations, recipe.data.split, recipe.data.digest)
    encoder = Encoder(
        load_processor(recipe.model.path), combinations, root.read_bytes, recipe.data.max_tokens
    )
    draw = random.Random(seed_of(recipe.seed, "sample"))  # noqa: S311 - a sample, no secret
    sample = draw.sample(dataset.rows, min(SAMPLE, len(dataset.rows)))
    found = [measure(encoder, row, recipe.batch.layout) for row in sample]
    tokens = [one.tokens for one in found if one.reason is None]
    if not tokens:
        raise TrainingError(f"none of {len(sample)} rows can be trained on: {found[0].message}")
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "this CPU"
    made = estimate(recipe, shape_without_weights(recipe), len(dataset.rows), tokens)
    refused = sum(dataset.refused.values()) + len(found) - len(tokens)
    return report(recipe, made, len(dataset.rows), refused, device)
