"""A recipe: what a dataset IS. Where it runs (URLs, keys, folders, speed) is `config.settings`.

Two recipes with the same digest make the same dataset from the same inputs. A setting never
changes a digest; every key here does, through the stage it belongs to.
"""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from config.digest import digest
from config.errors import RecipeError

RECIPES = Path(__file__).parent / "recipes"

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Cosine = Annotated[float, Field(ge=-1.0, le=1.0)]


def says(help: str) -> Any:
    """A key's help, as a form shows it."""
    return Field(description=help)


Temperature = Annotated[float, Field(ge=0.0, le=2.0), says("0 is greedy.")]
Tokens = Annotated[int, Field(ge=1), says("The longest answer in tokens.")]
Words = Annotated[int, Field(ge=1)]
PromptFile = Annotated[str, says("A prompt of the project by name, or the path of one of yours.")]


class Section(BaseModel):
    """A part of a recipe: unknown keys are refused, values do not change after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Embed(Section):
    """The two image encoders. A name is a Hugging Face repository or a local directory."""

    clip_model: Annotated[str, says("An open_clip model with safetensors.")]
    dino_model: Annotated[
        str | None, says("A DINOv2 model. `blind` needs it; `nearest` gets a second cosine by it.")
    ] = None


class Mine(Section):
    """Where the contrastive image m' comes from."""

    strategy: Annotated[
        Literal["nearest", "blind"],
        says("nearest: by CLIP cosine (SymMPO). blind: alike to CLIP, not to DINOv2 (JoMPO)."),
    ] = "nearest"
    clip_min: Annotated[Cosine, says("blind: the CLIP cosine lies above this.")] = 0.95
    dino_max: Annotated[Cosine, says("blind: the DINOv2 cosine lies below this.")] = 0.6
    near_duplicate: Annotated[
        Cosine, says("Images with a CLIP cosine above this are the same picture, no contrast.")
    ] = 0.99
    update: Annotated[
        Literal["keep", "refresh"],
        says("When images are added: keep every m' there is, or mine all anew."),
    ] = "keep"

    @model_validator(mode="after")
    def _room_between(self) -> Mine:
        if self.strategy == "blind" and self.near_duplicate <= self.clip_min:
            raise ValueError(
                f"near_duplicate is {self.near_duplicate} and clip_min {self.clip_min}: no pair "
                "lies between them; expected near_duplicate above clip_min"
            )
        return self


class Call(Section):
    """One kind of model call: which model, how it samples, which prompt."""

    model: Annotated[str, says("The name under which the endpoint serves the model.")]
    temperature: Temperature = 0.0
    top_p: Annotated[float, Field(gt=0.0, le=1.0), says("Nucleus sampling; 1 is off.")] = 1.0
    max_tokens: Tokens = 1024


class Caption(Call):
    """The detailed description of every image that claims are held against."""

    prompt: PromptFile = "caption.txt"


class Resample(Call):
    """The reference model's own answers: the model that will be trained."""

    k: Annotated[
        int, Field(ge=1, le=64), says("Answers for each image and prompt (SymMPO: 10).")
    ] = 10
    min_answers: Annotated[
        Annotated[int, Field(ge=1)] | None,
        says("Go on with so many where others failed. Empty: all K are needed."),
    ] = None
    temperature: Temperature = 0.7
    max_tokens: Tokens = 512

    @model_validator(mode="after")
    def _at_most_k(self) -> Resample:
        if self.min_answers is not None and self.min_answers > self.k:
            raise ValueError(
                f"min_answers is {self.min_answers} of k = {self.k} answers; expected at most k"
            )
        return self


class Structured(Call):
    """A call whose answer is JSON. `max_asks` counts the first ask and the ones after a bad answer."""

    max_asks: Annotated[
        int, Field(ge=1, le=10), says("How often a bad answer is asked again, the first included.")
    ] = 3


class Extract(Structured):
    """Claims out of the answers, each held against the caption."""

    prompt: PromptFile = "extract.txt"
    max_tokens: Tokens = 4096


class Rewrite(Structured):
    """The chosen text from claims that agree, the rejected one from those that disagree."""

    prompt: PromptFile = "rewrite.txt"
    max_tokens: Tokens = 2048


class Split(Section):
    """Shares of the kept rows; no image content stands on two sides."""

    train: Fraction = 0.95
    validation: Fraction = 0.05
    test: Fraction = 0.0

    @model_validator(mode="after")
    def _sums_to_one(self) -> Split:
        total = self.train + self.validation + self.test
        if abs(total - 1.0) > 1e-9:
            raise ValueError(
                f"train + validation + test is {total:g}, expected 1; change one of the three"
            )
        return self


class Assemble(Section):
    """Which rows are kept. Lengths count words."""

    min_words: Annotated[Words, says("The shortest text that is kept.")] = 1
    max_words: Annotated[Words, says("The longest text that is kept.")] = 400
    max_length_ratio: Annotated[
        float, Field(ge=1.0), says("How many times longer one of y_w and y_l may be.")
    ] = 3.0
    require_neighbour: Annotated[
        bool, says("Drop rows without m'; SymMPO and JoMPO need it, DPO does not.")
    ] = True
    split: Split = Split()


class Recipe(Section):
    """What a dataset is. Two datasets of one recipe and the same inputs are the same."""

    name: Annotated[
        str, Field(pattern=r"^[a-z0-9][a-z0-9_.-]{0,63}$"), says("Stands on the dataset's card.")
    ]
    seed: Annotated[int, says("Of the sampled answers.")] = 0
    embed: Embed
    mine: Mine = Mine()
    caption: Caption
    resample: Resample
    extract: Extract
    rewrite: Rewrite
    assemble: Assemble = Assemble()

    @property
    def digest(self) -> str:
        return digest(self.model_dump(mode="json"))


def load_recipe(name_or_path: str | Path, overrides: dict[str, Any] | None = None) -> Recipe:
    """Reads a recipe by file path, or by the name of one in `config/recipes`.

    `overrides` are dotted keys, e.g. {"resample.k": 4}. Raises RecipeError.
    """
    path = _find(name_or_path)
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path} is not YAML: {error}") from error
    if not isinstance(data, dict):
        raise RecipeError(f"{path} holds a {type(data).__name__}, expected keys and values")
    for dotted, value in (overrides or {}).items():
        _put(data, dotted, value)
    return parse_recipe(data, origin=str(path))


def parse_recipe(data: dict[str, Any], origin: str = "recipe") -> Recipe:
    """Validates a recipe's keys and values. Raises RecipeError naming each wrong key."""
    try:
        return Recipe.model_validate(data)
    except ValidationError as error:
        lines = [_explain(problem) for problem in error.errors()]
        raise RecipeError(f"{origin}:\n  " + "\n  ".join(lines)) from error


def recipe_names() -> list[str]:
    """The recipes that come with the project."""
    return sorted(path.stem for path in RECIPES.glob("*.yaml"))


def _find(name_or_path: str | Path) -> Path:
    path = Path(name_or_path)
    if path.is_file():
        return path
    shipped = RECIPES / f"{name_or_path}.yaml"
    if path.name == str(name_or_path) and shipped.is_file():
        return shipped
    near = difflib.get_close_matches(str(name_or_path), recipe_names(), n=1)
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    raise RecipeError(
        f"no recipe {str(name_or_path)!r}{hint}: give a YAML file or one of {recipe_names()}"
    )


def _put(data: dict[str, Any], dotted: str, value: Any) -> None:
    *parents, last = dotted.split(".")
    for key in parents:
        data = data.setdefault(key, {})
        if not isinstance(data, dict):
            raise RecipeError(f"override {dotted!r}: {key!r} is a value, not a section")
    data[last] = value


def _known_keys(location: tuple[int | str, ...]) -> list[str]:
    section: type[Section] = Recipe
    for part in location:
        field = section.model_fields.get(str(part))
        if field is None or not isinstance(field.annotation, type):
            return []
        if not issubclass(field.annotation, Section):
            return []
        section = field.annotation
    return list(section.model_fields)


def _explain(problem: Any) -> str:
    location = problem["loc"]
    where = ".".join(str(part) for part in location) or "recipe"
    if problem["type"] != "extra_forbidden":
        return f"{where}: {problem['msg']} (given: {problem.get('input')!r})"
    known = _known_keys(location[:-1])
    near = difflib.get_close_matches(str(location[-1]), known, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}?" if near else f"known keys: {', '.join(known)}"
    return f"{where}: unknown key; {hint}"
