"""One directory that transformers and vLLM load, from a checkpoint: adapters merged, names the hub's."""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

import torch

from config.errors import TrainingError
from train.checkpoint import read_weights, write_model
from train.models import base_model, load_base, load_processor, prepare
from train.recipe import Recipe, parse_recipe


def export(checkpoint: Path, out: Path, dtype: torch.dtype | None = None) -> Path:
    """Writes the trained model and its processor to `out`, whole or not at all.

    dtype: of the weights, the recipe's model.dtype if not given. An adapter is merged in float32.
    Runs on the CPU, and reads the starting model's weights again. Raises TrainingError.
    """
    about = checkpoint / "run.json"
    if not about.is_file():
        raise TrainingError(f"{checkpoint} is no whole checkpoint: it has no run.json")
    recipe = parse_recipe(json.loads(about.read_text(encoding="utf-8"))["recipe"], str(about))
    model = trained_model(checkpoint, recipe).to(dtype or getattr(torch, recipe.model.dtype))
    partial = out.with_name(f".{out.name}")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        write_model(partial, model, dict(model.state_dict()))
        load_processor(recipe.model.path).save_pretrained(str(partial))
        shutil.rmtree(out, ignore_errors=True)
        partial.rename(out)
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise TrainingError(
            f"the model could not be written to {out}: {error}. {checkpoint} is whole: free space "
            f"and run `python -m train.export {checkpoint} {out}`."
        ) from error
    return out


def trained_model(checkpoint: Path, recipe: Recipe) -> torch.nn.Module:
    """The bare transformers model of a checkpoint, in float32."""
    model = prepare(load_base(recipe.model, dtype=torch.float32), recipe)
    weights = read_weights(checkpoint, model)
    expected = {name for name, value in model.named_parameters() if value.requires_grad}
    missing = expected - set(weights)
    if missing:
        raise TrainingError(f"{checkpoint} lacks the weights {sorted(missing)[:3]}")
    model.load_state_dict(weights, strict=False)
    if hasattr(model, "merge_and_unload"):
        merged: torch.nn.Module = model.merge_and_unload()
        return merged
    return base_model(model)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m train.export", description=__doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--dtype", choices=["float32", "bfloat16", "float16"])
    given = parser.parse_args()
    print(export(given.checkpoint, given.out, given.dtype and getattr(torch, given.dtype)))


if __name__ == "__main__":
    main()
