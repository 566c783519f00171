"""The model to train: loaded from safetensors, with exactly the stated parts set to train."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn
from transformers import AutoModelForImageTextToText, AutoProcessor

from config.errors import RecipeError
from train.recipe import Model, Recipe
from train.scoring import unused_parameters
from train.scoring.families import base_model

FILES = ["*.json", "*.safetensors", "*.txt", "*.model", "*.jinja"]
FROZEN = "reference"  # the name of the frozen copy of an adapter

# Names of a part's parameters in a transformers model; the first that fits decides.
PARTS = {
    "projector": r"model\.(multi_modal_projector|visual\.(merger|deepstack_merger_list))\.",
    "vision": r"model\.(vision_tower|visual)\.",
    "language": r"(model\.language_model|lm_head)\.",
}
# From transformers 5's names to those of the checkpoints on the hub, which other programs read.
_QWEN2 = ((r"^model\.language_model\.", "model."), (r"^model\.visual\.", "visual."))
HUB_NAMES: dict[str, tuple[tuple[str, str], ...]] = {
    "llava": (
        (r"^model\.language_model\.", "language_model.model."),
        (r"^lm_head\.", "language_model.lm_head."),
        (r"^model\.vision_tower\.(vision_model\.)?", "vision_tower.vision_model."),
        (r"^model\.multi_modal_projector\.", "multi_modal_projector."),
    ),
    "qwen2_vl": _QWEN2,
    "qwen2_5_vl": _QWEN2,
    "qwen3_vl": (),
}


def directory_of(path: str) -> Path:
    """A local directory as it is; else a Hugging Face name, fetched: no pickles, no code.

    Raises RecipeError where there is neither, or no safetensors in it.
    """
    if Path(path).is_dir():
        found = Path(path)
    else:
        try:
            found = Path(snapshot_download(path, allow_patterns=FILES))
        except (OSError, ValueError) as error:
            raise RecipeError(
                f"model {path!r} is no local directory and cannot be fetched: {error}"
            ) from error
    if not any(found.glob("*.safetensors")):
        raise RecipeError(f"{found} has no .safetensors file; other formats are not loaded")
    return found


def load_processor(path: str) -> Any:
    return AutoProcessor.from_pretrained(directory_of(path), trust_remote_code=False)


def load_base(spec: Model, path: str | None = None, dtype: torch.dtype | None = None) -> Any:
    """The whole model, nothing set to train. path: in place of the spec's own."""
    directory = directory_of(path or spec.path)
    try:
        return AutoModelForImageTextToText.from_pretrained(
            directory,
            dtype=dtype or getattr(torch, spec.dtype),
            attn_implementation=spec.attention,
            use_safetensors=True,
            trust_remote_code=False,
        ).eval()
    except (OSError, ValueError) as error:
        raise RecipeError(f"the model in {directory} cannot be loaded: {error}") from error


def part_of(name: str) -> str | None:
    """The part a parameter belongs to, by its name in the bare transformers model."""
    return next((part for part, pattern in PARTS.items() if re.match(pattern, name)), None)


def load_policy(recipe: Recipe) -> Any:
    """The model with LoRA or whole weights set to train in the recipe's parts, all else frozen.

    Parameters that no output depends on are never among them: data parallel would not reduce the
    gradients of the others. Those that train are float32. Raises RecipeError.
    """
    torch.manual_seed(recipe.seed)
    model = prepare(load_base(recipe.model), recipe)
    if recipe.batch.gradient_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    return model


def prepare(model: Any, recipe: Recipe) -> Any:
    """Sets what trains on a bare model; see `load_policy`."""
    idle = set(unused_parameters(model))
    model.requires_grad_(False)
    if recipe.trained.method == "full":
        for name, parameter in model.named_parameters():
            if part_of(name) in recipe.trained.parts and name not in idle:
                parameter.data = parameter.data.float()
                parameter.requires_grad_(True)
    elif recipe.model.adapter is not None:
        model = _with_adapter(model, recipe)
    else:
        model = _with_lora(model, recipe, idle)
    missing = set(recipe.trained.parts) - set(describe(model))
    if missing:
        raise RecipeError(
            f"trained.parts names {sorted(missing)}, in which nothing would train; the model is of "
            f"type {base_model(model).config.model_type!r}, an adapter trains what it was made for"
        )
    return model


def _with_lora(model: Any, recipe: Recipe, idle: set[str]) -> Any:
    head = model.get_output_embeddings()
    targets = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear)
        and module is not head
        and part_of(f"{name}.weight") in recipe.trained.parts
        and f"{name}.weight" not in idle
    ]
    config = LoraConfig(
        r=recipe.trained.rank,
        lora_alpha=recipe.trained.alpha,
        lora_dropout=recipe.trained.dropout,
        target_modules=targets,
    )
    return get_peft_model(model, config)


def _with_adapter(model: Any, recipe: Recipe) -> Any:
    found = directory_of(str(recipe.model.adapter))
    policy = PeftModel.from_pretrained(model, found, is_trainable=True)
    if recipe.reference.kind == "frozen-adapter":
        policy.load_adapter(found, FROZEN, is_trainable=False)
        policy.set_adapter("default")
    return policy


def trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    return {name: value for name, value in model.named_parameters() if value.requires_grad}


def describe(model: nn.Module) -> dict[str, int]:
    """Trainable numbers by part, for the word on which modules train."""
    counts: Counter[str] = Counter()
    for name, parameter in trainable(model).items():
        counts[part_of(bare_name(name)) or "other"] += parameter.numel()
    return dict(counts)


def bare_name(name: str) -> str:
    """A parameter's name without PEFT's wrapper around the model."""
    return name.removeprefix("base_model.model.")


def hub_name(kind: str, name: str) -> str:
    """The name of a bare model's parameter in checkpoints of its type on the hub."""
    for pattern, replacement in HUB_NAMES[kind]:
        renamed, count = re.subn(pattern, replacement, name)
        if count:
            return renamed
    return name
