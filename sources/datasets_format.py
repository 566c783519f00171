"""A directory written by `datasets` (`save_to_disk`), memory-mapped, images not decoded."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from config.errors import InputError
from sources.parquet_format import BATCH_ROWS, arrow_rows
from sources.records import shown
from sources.rows import Row


def open_datasets(path: Path, split: str | None) -> Any:
    """The `datasets.Dataset` in a directory.

    Raises InputError where it cannot be read, where it has several splits and none is chosen, or
    where the chosen one is not there.
    """
    import datasets  # takes seconds: only where such a directory is given

    try:
        _check_inside(path)
        loaded = datasets.load_from_disk(str(path))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, pa.ArrowException) as error:
        raise InputError(f"{path} is not a readable `datasets` directory: {error}") from error
    if isinstance(loaded, datasets.DatasetDict):
        return _choose(path, dict(loaded), split)
    if split is not None and str(loaded.split) != split:
        raise InputError(f"{path} has no splits to choose from: leave split={split!r} out")
    return loaded


def datasets_rows(dataset: Any, columns: Sequence[str]) -> Iterator[Row]:
    """The rows as they are stored: an image is {"bytes", "path"}, never a decoded picture.

    Raises InputError where the stored rows turn out to be damaged.
    """
    stored = dataset.select_columns(list(columns)).with_format("arrow")
    try:
        for batch in stored.iter(batch_size=BATCH_ROWS):
            yield from arrow_rows(batch)
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"a `datasets` directory's rows cannot be read: {error}") from error


def _check_inside(path: Path) -> None:
    """Its own files say which others to read: only plain names beside them will do."""
    top, folders = path / "dataset_dict.json", [path]
    if top.is_file():
        splits = json.loads(top.read_bytes())["splits"]
        _plain(path, splits)
        folders = [path / split for split in splits]
    for folder in folders:
        state = json.loads((folder / "state.json").read_bytes())
        _plain(path, [file["filename"] for file in state["_data_files"]])


def _plain(path: Path, names: Sequence[object]) -> None:
    for name in names:
        if not isinstance(name, str) or name in ("", ".", "..") or Path(name).name != name:
            raise InputError(f"{path} names {shown(name)}; expected a name inside the directory")


def _choose(path: Path, splits: dict[str, Any], split: str | None) -> Any:
    names = ", ".join(splits)
    if split is None and len(splits) == 1:
        return next(iter(splits.values()))
    if split is None:
        raise InputError(f"{path} has several splits ({names}): say which with split")
    if split not in splits:
        raise InputError(f"{path} has no split {split!r}; it has {names}")
    return splits[split]
