"""From a model's name to a local directory of configuration and safetensors files."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from config.errors import RecipeError

REPOSITORY = re.compile(r"(?P<repo>[\w][\w.-]*/[\w][\w.-]*)(@(?P<revision>[\w][\w./-]*))?")
PICKLES = frozenset({".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".npz"})


@dataclass(frozen=True)
class Source:
    """A model's files. `name` is what the recipe says of it, without the machine's folders."""

    name: str
    directory: Path


def resolve(model: str, patterns: Sequence[str], repository: str | None = None) -> Source:
    """The files of a model: a local directory, or a Hugging Face repository "owner/name@revision".

    Of a repository only the files that match `patterns` are fetched, into huggingface_hub's cache.
    `repository` is the one to fetch where it is not `model` itself. Raises RecipeError.
    """
    if not model.strip():
        raise RecipeError("the model's name is empty; expected a directory or a repository")
    local = Path(model).expanduser()
    if local.is_dir():
        directory = local.resolve()
        return Source(directory.name, directory)
    match = REPOSITORY.fullmatch(repository or model)
    if local.exists() or match is None:
        state = "is a file" if local.exists() else "does not exist here"
        raise RecipeError(
            f"model {model!r} {state}; expected a directory with safetensors weights, "
            'or a Hugging Face repository "owner/name" or "owner/name@revision"'
        )
    return Source(model, _fetch(model, match["repo"], match["revision"], patterns))


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a model's file. Raises RecipeError."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise RecipeError(
            f"the model's directory {path.parent} has no {path.name}; "
            "give a directory or repository that has one"
        ) from error
    except (OSError, ValueError) as error:
        raise RecipeError(f"{path} cannot be read as JSON: {error}") from error
    if not isinstance(data, dict):
        raise RecipeError(f"{path} holds a {type(data).__name__}; expected keys and values")
    return data


def no_weights(directory: Path, expected: str) -> RecipeError:
    """The error for a directory without the safetensors that are needed."""
    pickles = sorted(p.name for p in directory.iterdir() if p.suffix.lower() in PICKLES)
    held = f"; it holds {', '.join(pickles)}, of formats never loaded here" if pickles else ""
    return RecipeError(
        f"no {expected} in {directory}{held}: give a repository or directory with safetensors, "
        "or convert the weights with safetensors.torch.save_file"
    )


def _fetch(model: str, repo: str, revision: str | None, patterns: Sequence[str]) -> Path:
    from huggingface_hub import snapshot_download

    # Its HTTP library's own error, whichever library that is.
    from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]

    try:
        found = snapshot_download(repo, revision=revision, allow_patterns=list(patterns))
    except (OSError, ValueError, HTTPError) as error:
        at = f" at revision {revision!r}" if revision else ""
        reason = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
        raise RecipeError(
            f"model {model!r} is no local directory, and the Hugging Face repository {repo!r}{at} "
            f"could not be fetched ({type(error).__name__}: {reason}); "
            "give a local directory, or check the name and the network"
        ) from error
    return Path(found)
