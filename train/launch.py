"""`python -m train.launch RECIPE --data ROOT --out DIR`: starts `train` on as many processes as the
recipe names.

On GPUs through `accelerate launch` with a configuration of train/accelerate; without one, on CPUs,
through torch's own launcher, which is what Accelerate's starts.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch

from config.errors import RecipeError, VisprefError
from train.__main__ import arguments, recipe_of
from train.recipe import Recipe

CONFIGURATIONS = Path(__file__).parent / "accelerate"


def command(recipe: Recipe, gpus: int, given: list[str]) -> list[str]:
    """What to run in place of this process. Raises RecipeError where there are too few GPUs."""
    python = [sys.executable, "-m"]
    if 0 < gpus < recipe.processes:
        raise RecipeError(
            f"recipe {recipe.name} asks for {recipe.processes} processes and this machine has "
            f"{gpus} GPUs; say --set processes={gpus}: a step has the same rows on fewer"
        )
    if recipe.processes == 1 and recipe.launch == "ddp":
        return [*python, "train", *given]
    if gpus == 0:
        if recipe.launch != "ddp":
            raise RecipeError(
                f"recipe {recipe.name} is launched with {recipe.launch}, which needs GPUs, and "
                "this machine has none; say --set launch=ddp to train on CPUs"
            )
        many = ["--standalone", "--nproc_per_node", str(recipe.processes)]
        return [*python, "torch.distributed.run", *many, "-m", "train", *given]
    file = CONFIGURATIONS / f"{recipe.launch}.yaml"
    return [
        *python, "accelerate.commands.launch", "--config_file", str(file),
        "--num_processes", str(recipe.processes), "-m", "train", *given,
    ]  # fmt: skip


def main() -> None:
    given = sys.argv[1:]
    options = arguments(given)
    try:
        recipe = recipe_of(options)
        alone = [sys.executable, "-m", "train", *given]
        found = alone if options.dry_run else command(recipe, torch.cuda.device_count(), given)
    except VisprefError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        sys.exit(1)
    if not torch.cuda.is_available():
        os.environ.setdefault("ACCELERATE_USE_CPU", "true")
    os.execv(found[0], found)  # noqa: S606 - this project's own module


if __name__ == "__main__":
    main()
