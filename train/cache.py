"""Reference log-probabilities in Parquet beside the dataset, scored once for all epochs and runs.

A file is known by all that decides its numbers but the rows: the weights, the tokenizer, the chat
template, the preprocessing, the layout, attention, dtype and precision. A row in it is known by its
content. So a cache is never taken for another's, and a grown dataset costs its new rows only.
Processes that share the scoring out write a file each beside it, and all are read as one.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from config.digest import digest, text_digest
from config.errors import TrainingError
from storage.root import Root
from train.batches import split_step
from train.data import Rows, row_digest
from train.encode import EncodedRow
from train.models import directory_of
from train.objectives import Combination, LogProbs
from train.processes import Processes
from train.recipe import Recipe

SCHEMA = pa.schema(
    [
        ("row", pa.string()),
        ("image", pa.string()),
        ("response", pa.string()),
        ("log_prob", pa.float32()),
    ]
)
Key = tuple[str, str, str]  # row digest, image slot, response


@dataclass(frozen=True)
class Shard:
    """One of `count` processes that each score a share of the rows; `index` counts from 1."""

    index: int
    count: int

    def of(self, rows: list[Any]) -> list[Any]:
        return rows[self.index - 1 :: self.count]

    def path(self, cache: str) -> str:
        return f"{cache.removesuffix('.parquet')}.{self.index}-of-{self.count}.parquet"


@dataclass
class Cached:
    """Log-probabilities by row id. `path` is where they stand under the root."""

    values: dict[str, dict[Combination, float]]
    path: str
    device: torch.device

    def __call__(self, rows: list[EncodedRow]) -> LogProbs | None:
        return {
            which: torch.tensor(
                [self.values[row.row_id][which] for row in rows], device=self.device
            )
            for which in rows[0].combinations
        }


def weights_digest(path: str) -> str:
    """Of a model's or adapter's configuration and every byte of its safetensors."""
    found = hashlib.sha256()
    directory = directory_of(path)
    names = [*directory.glob("*config.json"), *directory.glob("*.safetensors")]
    for file in sorted(names, key=lambda name: name.name):
        found.update(file.name.encode() + b"\0")
        with file.open("rb") as stream:
            found.update(hashlib.file_digest(stream, "sha256").digest())
    return found.hexdigest()


def key_of(recipe: Recipe, processor: Any, crop_area: tuple[float, float]) -> str:
    """32 hex characters over everything that decides a row's reference log-probability."""
    model = recipe.model
    adapter = None if recipe.reference.path else model.adapter
    expansion = ("patch_size", "vision_feature_select_strategy", "num_additional_image_tokens")
    preprocessing = {
        "image": processor.image_processor.to_dict(),
        "expansion": {name: getattr(processor, name, None) for name in expansion},
        "crop": list(crop_area),
    }
    return digest(
        {
            "weights": weights_digest(recipe.reference.path or model.path),
            "adapter": adapter and weights_digest(adapter),
            "tokenizer": text_digest(processor.tokenizer.backend_tokenizer.to_str()),
            "end": processor.tokenizer.eos_token,
            "template": text_digest(str(processor.chat_template)),
            "preprocessing": text_digest(json.dumps(preprocessing, sort_keys=True, default=str)),
            "layout": recipe.batch.layout,
            "attention": model.attention,
            "dtype": model.dtype,
            "precision": model.precision,
            "method": recipe.trained.method if recipe.reference.path is None else None,
        }
    )


def path_of(dataset: str, key: str) -> str:
    return f"references/{dataset}/{key}.parquet"


def open_cache(
    root: Root,
    path: str,
    rows: Rows,
    combinations: tuple[Combination, ...],
    score: Callable[[list[EncodedRow]], LogProbs],
    budget: int,
    processes: Processes,
    device: torch.device,
    say: Callable[[str], None],
    shard: Shard | None = None,
) -> Cached:
    """The cache, with the rows it lacks scored by `score` first, shared out over the processes.

    shard: the rows are one process's share, and what is scored goes to a file of its own.
    """
    names = [row_digest(row) for row in rows.rows]
    known = read(root, path)
    missing = [
        number
        for number, name in enumerate(names)
        if any((name, *which) not in known for which in combinations)
    ]
    if missing:
        say(f"scoring {len(missing)} of {len(names)} rows for the reference's cache")
        fresh = dict(processes.gather(_score(rows, names, missing, score, budget, processes)))
        known |= fresh
        bad = sum(not math.isfinite(value) for value in known.values())
        if bad:
            raise TrainingError(
                f"the reference gave {bad} log-probabilities that are no numbers; nothing was "
                "cached. Look at the model and model.precision."
            )
        if processes.is_main:
            if shard is None:
                write(root, path, known)
            else:
                own = shard.path(path)
                write(root, own, read_file(root, own) | fresh)
        processes.wait()
    values = {
        row.row_id: {which: known[name, *which] for which in combinations}
        for row, name in zip(rows.rows, names, strict=True)
    }
    return Cached(values, path, device)


def _score(
    rows: Rows,
    names: list[str],
    missing: list[int],
    score: Callable[[list[EncodedRow]], LogProbs],
    budget: int,
    processes: Processes,
) -> list[tuple[Key, float]]:
    found = []
    own = split_step(missing, rows.tokens, budget, processes.count)[processes.index]
    for micro, batch in zip(own, rows.ahead([micro.rows for micro in own]), strict=True):
        for which, values in score(batch).items():
            for number, value in zip(micro.rows, values.tolist(), strict=True):
                found.append(((names[number], *which), value))
    return found


def read(root: Root, path: str) -> dict[Key, float]:
    """The cache at `path` and the files of shards beside it."""
    folder, name = path.rsplit("/", 1)
    start = f"{folder}/{name.removesuffix('parquet')}"
    known: dict[Key, float] = {}
    for file in root.list(folder, ".parquet"):
        if file.startswith(start):
            known |= read_file(root, file)
    return known


def read_file(root: Root, path: str) -> dict[Key, float]:
    if not root.exists(path):
        return {}
    table = pq.read_table(io.BytesIO(root.read_bytes(path)))
    columns = [table.column(name).to_pylist() for name in SCHEMA.names]
    return {
        (row, image, response): value for row, image, response, value in zip(*columns, strict=True)
    }


def write(root: Root, path: str, known: dict[Key, float]) -> None:
    records = [
        dict(zip(SCHEMA.names, (*key, value), strict=True)) for key, value in sorted(known.items())
    ]
    data = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(records, schema=SCHEMA), data)
    root.write_bytes(path, data.getvalue())
