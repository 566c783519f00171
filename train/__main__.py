"""`accelerate launch -m train RECIPE --data ROOT --out DIR`; see also train/launch.py.

Exit codes: 0 done, 1 refused or failed, 130 stopped by a signal after a checkpoint.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import torch
import yaml

from config.errors import RecipeError, VisprefError
from storage.root import Root
from train.cache import Shard
from train.loop import Stopped, train
from train.recipe import Recipe, load_recipe
from train.score import score_reference


def arguments(given: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m train", description=__doc__)
    parser.add_argument("recipe", help="a recipe's name or YAML file")
    parser.add_argument("--data", required=True, help="the dataset's root, a folder or fsspec URL")
    parser.add_argument("--out", type=Path, help="checkpoints, logs and the trained model")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--dry-run", action="store_true", help="print memory and time estimates")
    parser.add_argument(
        "--score-reference", action="store_true", help="only fill the reference's cache"
    )
    parser.add_argument(
        "--shard", type=shard_of, metavar="I/N", help="of the rows, with --score-reference"
    )
    found = parser.parse_args(given)
    if found.shard is not None and not found.score_reference:
        parser.error("--shard is of --score-reference: training takes all rows")
    if found.out is None and not found.dry_run and not found.score_reference:
        parser.error("--out is needed: where checkpoints, logs and the trained model go")
    return found


def shard_of(text: str) -> Shard:
    """I/N as a Shard. Raises argparse's error."""
    index, separator, count = text.partition("/")
    numbers = (index, count)
    if (
        not separator
        or not all(n.isdecimal() for n in numbers)
        or not 1 <= int(index) <= int(count)
    ):
        raise argparse.ArgumentTypeError(f"{text!r}: expected I/N with I from 1 to N, such as 1/4")
    return Shard(int(index), int(count))


def recipe_of(given: argparse.Namespace) -> Recipe:
    overrides: dict[str, Any] = {}
    for pair in given.set:
        key, separator, value = pair.partition("=")
        if not separator or not key:
            raise RecipeError(f"--set {pair!r}: expected KEY=VALUE")
        overrides[key] = yaml.safe_load(value)
    return load_recipe(given.recipe, overrides)


def main(given: list[str] | None = None) -> int:
    options = arguments(given)
    try:
        recipe = recipe_of(options)
        if options.dry_run:
            from train.dry import dry_run

            print(dry_run(recipe, Root(options.data)))
        elif options.score_reference:
            score_reference(recipe, Root(options.data), options.shard)
        else:
            train(recipe, Root(options.data), options.out)
    except Stopped as stopped:
        print(f"{stopped} The same command goes on.", file=sys.stderr, flush=True)
        return 130
    except VisprefError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
        return 1
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
    return 0


if __name__ == "__main__":
    sys.exit(main())
