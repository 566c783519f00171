"""What the user says about one input, and what can be told before it is opened."""

from __future__ import annotations

import glob
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import orjson

from config.errors import InputError
from sources.records import shown

FORMATS = ("folder", "glob", "jsonl", "csv", "parquet", "json", "datasets")
FILE_FORMATS = {".jsonl": "jsonl", ".csv": "csv", ".parquet": "parquet", ".json": "json"}
DATASETS_MARKS = ("dataset_dict.json", "dataset_info.json", "state.json")
COLUMNS = ("image", "prompt", "id")


@dataclass(frozen=True, kw_only=True)
class InputSpec:
    """One input.

    location: a folder, a glob, a file, or a directory that `datasets` saved.
    format: one of FORMATS, or "auto": by what the location is.
    prompts, prompts_file: asked of every image of a folder, of a glob, or of a table that has no
        prompt column. A prompts file is .txt (one a line) or .json (a list of texts).
    columns: our names (image, prompt, id) to the input's, where they differ from the usual ones.
    images_root: where relative image paths start; the input file's folder where not given.
    split: which split of a `datasets` directory that has several.
    """

    location: str
    format: str = "auto"
    prompts: tuple[str, ...] = ()
    prompts_file: str | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    images_root: str | None = None
    split: str | None = None


def check_spec(spec: InputSpec) -> None:
    """Raises InputError where the spec contradicts itself, whatever the input holds."""
    if spec.format != "auto" and spec.format not in FORMATS:
        raise InputError(f"format {spec.format!r}: expected auto or one of {', '.join(FORMATS)}")
    for ours in spec.columns:
        if ours not in COLUMNS:
            raise InputError(
                f"columns maps {ours!r}: expected our names {', '.join(COLUMNS)} on the left, "
                "for instance image=file_name"
            )
    if spec.prompts and spec.prompts_file is not None:
        raise InputError("both prompts and prompts_file are given: give one of them")
    if any(not prompt.strip() for prompt in spec.prompts):
        raise InputError("prompts holds an empty text: remove it")


def detect_format(spec: InputSpec) -> str:
    """The input's format, by what its location is. Raises InputError where none fits."""
    if spec.format != "auto":
        return spec.format
    path = Path(spec.location)
    if path.is_dir():
        saved = any((path / mark).is_file() for mark in DATASETS_MARKS)
        return "datasets" if saved else "folder"
    if path.exists():
        found = FILE_FORMATS.get(path.suffix.lower())
        if found is None:
            raise InputError(
                f"{path}: the ending {path.suffix!r} is none of {', '.join(FILE_FORMATS)}; "
                f"rename it, or give the format: one of {', '.join(FORMATS)}"
            )
        return found
    if glob.has_magic(spec.location):
        return "glob"
    raise InputError(f"{path} does not exist: give a folder, a glob or a file that does")


def image_folder(spec: InputSpec) -> Path:
    """The absolute folder that relative image paths start from; giving the input grants it.

    `images_root` where given; else the folder itself, the glob's part before its first wildcard,
    or the folder the input file lies in.
    """
    if spec.images_root is not None:
        return Path(os.path.abspath(spec.images_root))
    path = Path(os.path.abspath(spec.location))
    form = detect_format(spec)
    if form in ("folder", "datasets"):
        return path
    if form == "glob":
        while glob.has_magic(str(path)):
            path = path.parent
        return path if path.is_dir() else path.parent
    return path.parent


def prompts_of(spec: InputSpec) -> tuple[str, ...]:
    """The prompts asked of every image; empty where the spec gives none. Raises InputError."""
    if spec.prompts_file is None:
        return spec.prompts
    path = Path(spec.prompts_file)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"prompts file {path} cannot be read: {error.strerror}") from error
    if path.suffix.lower() == ".txt":
        prompts = _prompts_of_text(path, data)
    elif path.suffix.lower() == ".json":
        prompts = _prompts_of_json(path, data)
    else:
        raise InputError(f"prompts file {path}: expected .txt (one a line) or .json (a list)")
    if not prompts:
        raise InputError(f"prompts file {path} holds no prompt")
    return prompts


def _prompts_of_text(path: Path, data: bytes) -> tuple[str, ...]:
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"prompts file {path} is not UTF-8: save it as UTF-8") from error
    lines = text.replace("\r\n", "\n").split("\n")
    return tuple(line.strip() for line in lines if line.strip())


def _prompts_of_json(path: Path, data: bytes) -> tuple[str, ...]:
    try:
        value = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise InputError(f"prompts file {path} is not JSON: {error}") from error
    if not isinstance(value, list):
        raise InputError(f"prompts file {path} holds {shown(value)}; expected a list of texts")
    for entry in value:
        if not isinstance(entry, str) or not entry.strip():
            raise InputError(
                f"prompts file {path} holds {shown(entry)}; expected texts that are not empty"
            )
    return tuple(value)
