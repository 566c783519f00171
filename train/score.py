"""Fills the reference's cache and ends: what a run with `reference.kind: cache` does before it trains."""

from __future__ import annotations

from storage.root import Root
from train.cache import Shard
from train.models import load_policy, load_processor
from train.processes import Processes
from train.recipe import Recipe
from train.scoring import Scorer
from train.setup import make_accelerator, open_reference, open_rows
from train.tracking import say


def score_reference(recipe: Recipe, root: Root, shard: Shard | None = None) -> None:
    """Scores the rows (of one shard) that the cache lacks; other kinds of reference need none.

    Raises RecipeError, StorageError, TrainingError.
    """
    if recipe.reference.kind != "cache":
        say(f"reference.kind is {recipe.reference.kind}: there is nothing to score before training")
        return
    accelerator = make_accelerator(recipe, None)
    tell = say if accelerator.is_main_process else lambda _: None
    processor = load_processor(recipe.model.path)
    dataset, rows = open_rows(recipe, root, processor, Processes(accelerator), shard)
    if not rows.rows:
        tell("this shard has no rows")
        return
    # The weights that the policy starts with, in its precision: the numbers a training would find.
    policy = Scorer(load_policy(recipe), recipe.batch.layout, recipe.batch.head_chunk)
    policy.to(accelerator.device)
    open_reference(recipe, root, dataset, rows, policy, accelerator, tell, shard)
    tell(f"the reference of {len(rows.rows)} rows is in the cache")
