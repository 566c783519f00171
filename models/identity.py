"""What an image encoder is, told without building it: two equal identities encode alike."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from config.digest import digest
from models import clip, dino
from models.description import Description
from models.preprocessing import Preprocessing
from models.weights import weights_digest

Kind = Literal["clip", "dino"]


@dataclass(frozen=True)
class ModelIdentity:
    """An encoder's name, weights, network, preprocessing and length of its vectors.

    `name` is a repository as given, or a local directory's own name without its parents.
    `weights_digest` is 64 hex characters over the safetensors files, `architecture` 32 over the
    network's configuration (the same weights under another activation are another encoder).
    """

    name: str
    weights_digest: str
    architecture: str
    preprocessing: Preprocessing
    dimension: int

    def as_dict(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "weights_digest": self.weights_digest,
            "architecture": self.architecture,
            "preprocessing": self.preprocessing.as_dict(),
            "dimension": self.dimension,
        }


def describe(kind: Kind, model: str) -> Description:
    """A model's files and parameters; fetches them where they are not local.

    Raises RecipeError for a model that cannot be had or is not of this kind.
    """
    return clip.describe(model) if kind == "clip" else dino.describe(model)


def identity_of(description: Description, cache_dir: Path) -> ModelIdentity:
    return ModelIdentity(
        name=description.name,
        weights_digest=weights_digest(description.weights, cache_dir),
        architecture=digest(description.architecture),
        preprocessing=description.preprocessing,
        dimension=description.dimension,
    )


def identify(kind: Kind, model: str, cache_dir: Path) -> ModelIdentity:
    """An encoder's identity, without importing torch. Raises RecipeError."""
    return identity_of(describe(kind, model), cache_dir)
