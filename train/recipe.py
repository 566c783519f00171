"""A training recipe: everything that decides what is trained. Where it runs is `accelerate launch`'s.

The resolved recipe stands beside every checkpoint. Nothing here knows how many processes there are:
`batch.rows` counts the rows of one optimiser step over all of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from config.digest import digest
from config.errors import RecipeError
from train import objectives

RECIPES = Path(__file__).parent / "recipes"

Count = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0.0)]
Part = Literal["language", "vision", "projector"]


class Section(BaseModel):
    """Unknown keys are refused; values do not change after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Model(Section):
    """The model to start from: a local directory or a Hugging Face name, safetensors only.

    adapter: a LoRA adapter to go on training, left unmerged. dtype: of the weights that do not
    train; those that train are held in float32. precision: of the computation (autocast).
    """

    path: str
    adapter: str | None = None
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    precision: Literal["no", "bf16"] = "bf16"
    attention: Literal["sdpa", "eager"] = "sdpa"


class Trained(Section):
    """What trains: whole weights or LoRA, in which parts. rank, alpha and dropout are LoRA's."""

    method: Literal["lora", "full"] = "lora"
    parts: Annotated[tuple[Part, ...], Field(min_length=1)] = ("language",)
    rank: Count = 128
    alpha: Count = 256
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0


class Objective(Section):
    """A loss of `train.objectives` by name, and the parameters that differ from its defaults."""

    name: str
    parameters: dict[str, float] = {}

    @model_validator(mode="after")
    def _known(self) -> Objective:
        self.loss.parameters(self.parameters)
        return self

    @property
    def loss(self) -> objectives.Objective:
        return objectives.get(self.name)


class Reference(Section):
    """Where pi_ref's log-probabilities come from; see train/reference.py.

    path: another model than the one training starts from (cache and second-model only).
    """

    kind: Literal["none", "cache", "adapter-off", "frozen-adapter", "second-model"] = "cache"
    path: str | None = None


class Data(Section):
    """max_tokens: of a prefix with one response. digest: of a dataset, the newest if not given."""

    split: Literal["train", "validation", "test"] = "train"
    digest: str | None = None
    max_tokens: Count = 2048


class Batch(Section):
    """rows: of an optimiser step over all processes. tokens: of one forward on one process.

    tokens counts padding: rows times the longest row. A row longer than that goes alone.
    """

    rows: Count = 64
    tokens: Count = 16384
    layout: Literal["shared", "naive"] = "shared"
    head_chunk: Count = 512
    gradient_checkpointing: bool = True


class Optimiser(Section):
    """AdamW with a linear warm-up (a share of all steps) and a cosine to zero."""

    learning_rate: Positive
    epochs: Count = 2
    max_steps: Count | None = None
    warmup: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.03
    schedule: Literal["cosine", "constant"] = "cosine"
    weight_decay: Annotated[float, Field(ge=0.0)] = 0.0
    betas: tuple[float, float] = (0.9, 0.999)
    max_grad_norm: Positive = 1.0


class Keeping(Section):
    """A checkpoint every so many steps and at the end; the newest `keep` of them stay."""

    every: Count = 100
    keep: Count = 2
    export: bool = True


class Guards(Section):
    """What stops a run. Tolerances are in nats and follow the precision where not given.

    In bf16 two layouts lie 0.1 nats apart over 100 tokens, so its tolerances are wide.
    divergence: a loss this many times the first steps' mean, for `patience` steps in a row.
    """

    layouts: Positive | None = None
    reference: Positive | None = None
    rows: Count = 4
    divergence: Annotated[float, Field(gt=1.0)] = 5.0
    patience: Count = 10


class Recipe(Section):
    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_.-]{0,63}$")]
    seed: int = 0
    processes: Count = 1
    launch: Literal["fsdp2", "deepspeed", "ddp"] = "ddp"
    model: Model
    trained: Trained = Trained()
    objective: Objective
    reference: Reference = Reference()
    data: Data = Data()
    batch: Batch = Batch()
    optimiser: Optimiser
    checkpoints: Keeping = Keeping()
    guards: Guards = Guards()
    trackers: tuple[Literal["tensorboard", "wandb", "mlflow"], ...] = ("tensorboard",)

    @model_validator(mode="after")
    def _reference_fits(self) -> Recipe:
        reason = wrong_reference(self)
        if reason:
            raise ValueError(reason)
        return self

    @property
    def digest(self) -> str:
        return digest(self.model_dump(mode="json"))

    @property
    def layout_tolerance(self) -> float:
        return self.guards.layouts or (1e-2 if self.model.precision == "no" else 1.0)

    @property
    def reference_tolerance(self) -> float:
        return self.guards.reference or (1e-2 if self.model.precision == "no" else 0.5)


def wrong_reference(recipe: Recipe) -> str | None:
    """Why the recipe's reference would silently be the wrong one, or None."""
    kind, model = recipe.reference.kind, recipe.model
    if recipe.objective.loss.needs_reference != (kind != "none"):
        needs = "needs" if kind == "none" else "does not use"
        return f"reference.kind is {kind!r}, but objective {recipe.objective.name} {needs} one"
    if kind == "adapter-off":
        if recipe.trained.method == "full":
            return (
                "reference.kind is 'adapter-off', but full training has no adapter to turn off: "
                "the policy would be its own reference. Use cache or second-model."
            )
        if model.adapter is not None:
            return (
                f"reference.kind is 'adapter-off', but training goes on from the unmerged adapter "
                f"{model.adapter}: without it the model is the one before that adapter's training, "
                "not the one this run starts from. Use frozen-adapter or cache, or merge it first."
            )
    if kind == "frozen-adapter" and model.adapter is None:
        return (
            "reference.kind is 'frozen-adapter', but model.adapter names none to freeze; "
            "use adapter-off, which is the model this run starts from"
        )
    if recipe.reference.path is not None and kind not in ("cache", "second-model"):
        return f"reference.path is given, but kind {kind!r} loads no model; use second-model"
    if model.adapter is not None and recipe.trained.method == "full":
        return "model.adapter is given, but trained.method is 'full'; merge the adapter first"
    return None


def recipe_names() -> list[str]:
    return sorted(path.stem for path in RECIPES.glob("*.yaml"))


def load_recipe(name_or_path: str | Path, overrides: Mapping[str, Any] | None = None) -> Recipe:
    """By the name of one in `train/recipes`, or a YAML file's path. overrides: dotted keys.

    Raises RecipeError.
    """
    path = Path(name_or_path)
    if path.suffix not in (".yaml", ".yml"):
        if str(name_or_path) not in recipe_names():
            near = get_close_matches(str(name_or_path), recipe_names(), n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise RecipeError(
                f"no training recipe {str(name_or_path)!r}; there are "
                f"{', '.join(recipe_names())}, or give a YAML file's path.{hint}"
            )
        path = RECIPES / f"{name_or_path}.yaml"
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise RecipeError(f"training recipe {path} cannot be read: {error}") from error
    if not isinstance(values, dict):
        raise RecipeError(f"training recipe {path} is no mapping of keys to values")
    for key, value in (overrides or {}).items():
        section = values
        *parents, last = key.split(".")
        for parent in parents:
            section = section.setdefault(parent, {})
            if not isinstance(section, dict):
                raise RecipeError(f"override {key!r}: {parent!r} has no keys of its own")
        section[last] = value
    return parse_recipe(values, str(path))


def parse_recipe(values: Mapping[str, Any], origin: str = "training recipe") -> Recipe:
    """Raises RecipeError, one line for each wrong key, unknown ones with the nearest name."""
    try:
        return Recipe.model_validate(values)
    except ValidationError as error:
        lines = [_told(dict(fault)) for fault in error.errors()]
        raise RecipeError(f"{origin}: {'; '.join(lines)}") from error


def _told(fault: dict[str, Any]) -> str:
    *parents, last = [str(part) for part in fault["loc"]] or [""]
    where = ".".join([*parents, last])
    if fault["type"] != "extra_forbidden":
        message = str(fault["msg"]).removeprefix("Value error, ")
        return f"{where}: {message}" if where else message
    section: Any = Recipe
    for parent in parents:
        section = section.model_fields[parent].annotation
    near = get_close_matches(last, section.model_fields, n=1)
    hint = f", did you mean {near[0]!r}?" if near else f"; keys: {', '.join(section.model_fields)}"
    return f"{where}: no such key{hint}"
