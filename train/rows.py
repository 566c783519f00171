"""From a dataset's Parquet to training rows; rows that cannot be trained on are told apart."""

from __future__ import annotations

import hashlib
import io
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from config.errors import RefusedRow, StorageError
from storage.catalog import read_current
from storage.images import view_path
from storage.root import Root
from train.objectives import Combination

COLUMNS = {
    "row_id", "split", "prompt", "image", "image_path", "neighbour", "neighbour_path",
    "chosen", "rejected", "neighbour_chosen",
}  # fmt: skip


@dataclass(frozen=True)
class TrainingRow:
    """A prompt, and by name the images and the responses that an objective asks for.

    images: "image" and "neighbour" to paths relative to the dataset's root.
    responses: "chosen", "rejected" and "neighbour_chosen" to texts.
    """

    row_id: str
    prompt: str
    images: Mapping[str, str]
    responses: Mapping[str, str]


@dataclass(frozen=True)
class Dataset:
    """The rows of one split in the dataset's order, and why others were refused.

    `refused` counts by reason; `examples` has the first message of each.
    """

    digest: str
    manifest: Mapping[str, Any]
    rows: list[TrainingRow]
    refused: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)


def read_dataset(
    root: Root,
    combinations: Collection[Combination],
    split: str = "train",
    digest: str | None = None,
) -> Dataset:
    """The rows of `split` ("train", "validation", "test") that `combinations` can be scored on.

    digest: of a dataset under the root; without one, the newest run's. Raises StorageError where
    there is no whole dataset, a part is not the one the manifest names, or the split has no row.
    """
    digest = digest or read_current(root)["dataset"]
    if digest is None:
        raise StorageError(f"{root.url} holds no dataset yet: run `vispref build` first")
    path = f"datasets/{digest}"
    manifest = root.read_json(f"{path}/manifest.json")
    if manifest is None:
        raise StorageError(
            f"{root.url_of(path)} has no manifest.json, so it is no whole dataset; there are "
            f"{', '.join(_whole(root)) or 'none'}. Run `vispref build` to write it again."
        )
    files = root.walk("images") | root.walk("views")
    found = Dataset(digest, manifest, [])
    for record in _records(root, path, manifest):
        if record["split"] != split:
            continue
        try:
            found.rows.append(training_row(record, combinations, files))
        except RefusedRow as refused:
            found.refused[refused.reason] += 1
            found.examples.setdefault(refused.reason, str(refused))
    if not found.rows:
        raise StorageError(
            f"{root.url_of(path)} has no row to train on in split {split!r}; refused: "
            f"{dict(found.refused) or 'none'}. {' '.join(found.examples.values())}"
        )
    return found


def training_row(
    record: Mapping[str, Any], combinations: Collection[Combination], files: Collection[str]
) -> TrainingRow:
    """One record of `preferences` as a row. Raises RefusedRow with the reason.

    files: the image files there are, as root-relative paths. An image that has an upright RGB view
    is read from it, as the captioner and the reference model were given it.
    """
    row = f"row {record['row_id']}"
    if not (record["prompt"] or "").strip():
        raise RefusedRow("no_prompt", f"{row} has no prompt")
    responses = {}
    for name in dict.fromkeys(which.response for which in combinations):
        text = record[name]
        if text is None:
            raise RefusedRow("no_response", f"{row} has no {name}, which the objective needs")
        if not text.strip():
            raise RefusedRow("empty_response", f"{row}: {name} is empty")
        responses[name] = text.strip()
    images = {}
    slots = {"image" if which.image == "crop" else which.image for which in combinations}
    for slot in sorted(slots - {"none"}):
        view, path = view_path(record[slot] or ""), record[f"{slot}_path"]
        chosen = view if view in files else path
        if chosen not in files:
            raise RefusedRow("missing_image", f"{row}: {slot} {path!r} is not under the root")
        images[slot] = chosen
    return TrainingRow(record["row_id"], record["prompt"], images, responses)


def _records(root: Root, path: str, manifest: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for part in manifest["files"]:
        if not part["path"].startswith("preferences/"):
            continue
        data = root.read_bytes(f"{path}/{part['path']}")
        if hashlib.sha256(data).hexdigest() != part["sha256"]:
            raise StorageError(
                f"{root.url_of(path)}/{part['path']} is not what its manifest names: its SHA-256 "
                "differs. Restore the file or build the dataset again."
            )
        table: pa.Table = pq.read_table(io.BytesIO(data))
        missing = COLUMNS - set(table.column_names)
        if missing:
            raise StorageError(
                f"{root.url_of(path)}/{part['path']} lacks the columns {sorted(missing)}"
            )
        yield from table.select(sorted(COLUMNS)).to_pylist()


def _whole(root: Root) -> list[str]:
    found = (path.split("/") for path in root.walk("datasets"))
    return sorted(names[1] for names in found if names[-1] == "manifest.json")
