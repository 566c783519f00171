"""Whether what lies under a root is what it says it is. Reads, and changes nothing.

Everything is read piece by piece: neither a file nor a table nor the list of images is held whole.
Readers need no lock; a run that writes meanwhile disturbs nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from config.errors import FileMissing, StorageError
from stages.chain import IMAGES
from storage import parts
from storage.responses import check_cache
from storage.root import Root
from storage.schemas import DECISIONS, PREFERENCES, TABLES, embeddings
from storage.tables import Tables
from storage.vectors import TABLE as EMBEDDINGS

WORKERS = 8  # images read at a time
READ_ROWS = 10_000
SHOWN = 1_000  # faults that are listed; all are counted

AGAIN = "ingest the input again (vispref build --input ...), which stores the image anew"
PENDING = "delete it and build again: its rows become pending, and answers come from the cache"
DELETE = {  # what to do about a part of these tables; PENDING for the others
    "inputs": "delete it and ingest the input again (vispref build --input ...)",
    "images": "delete it and ingest the input again (vispref build --input ...)",
    "failures": "delete it: what it told of failed rows is lost, no answer is",
}
MANIFEST = "move the folder away and build again: the same rows and recipe make it anew"
CACHE = (
    "mend it (sqlite3 FILE .recover) or move it away: answers in the dataset's tables are not "
    "affected, those of lost tables are paid for again"
)


@dataclass(frozen=True)
class Fault:
    """One thing that is not as it should be: what it is, where, what was found, what to do."""

    kind: str
    path: str
    found: str
    do: str


class Report:
    """Counts of what was checked, and the faults; those beyond SHOWN are only counted."""

    def __init__(self) -> None:
        self.checked: Counter[str] = Counter()
        self.faults: list[Fault] = []
        self.total = 0

    def add(self, kind: str, path: str, found: str, do: str) -> None:
        self.total += 1
        if len(self.faults) < SHOWN:
            self.faults.append(Fault(kind, path, found, do))

    def as_dict(self) -> dict[str, Any]:
        """JSON values."""
        return {
            "checked": dict(self.checked),
            "faults": self.total,
            "listed": [asdict(fault) for fault in self.faults],
        }


def verify(root: Root, tables: Tables, cache_dir: Path | None = None) -> dict[str, Any]:
    """Checks images, views, parts, datasets and, where it is named, the response cache.

    Gives `checked` (counts), `faults` (how many) and `listed` (the first of them).
    """
    report = Report()
    damaged = _check_parts(root, report)
    _check_images(root, report)
    if "images" not in damaged:
        _check_image_rows(root, tables, report)
    for folder in root.list("datasets"):
        _check_dataset(root, folder, report)
    if cache_dir is not None:
        _check_cache(cache_dir, report)
    return report.as_dict()


def _check_parts(root: Root, report: Report) -> set[str]:
    """Reads every part; gives the tables that have a fault."""
    damaged: set[str] = set()
    for folder in root.list("tables"):
        table = folder.rsplit("/", 1)[-1]
        before = report.total
        for recipe in parts.recipes(root, table):
            for path in parts.paths(root, table, recipe):
                report.checked["parts"] += 1
                report.checked["rows"] += _check_part(root, path, table, report)
        if report.total > before:
            damaged.add(table)
    return damaged


def _check_part(root: Root, path: str, table: str, report: Report) -> int:
    """Reads a part to its end; gives its rows, 0 where it is at fault."""
    do = DELETE.get(table, PENDING)
    try:
        with root.reading(path) as opened:
            file = pq.ParquetFile(opened, page_checksum_verification=True)
            rows = sum(file.read_row_group(i).num_rows for i in range(file.num_row_groups))
            schema = file.schema_arrow.remove_metadata()
    except FileMissing:
        return 0  # merged or mended since it was listed
    except (*parts.DAMAGE, StorageError) as error:
        report.add("unreadable part", path, told(error), do)
        return 0
    if not _fits(schema, table):
        report.add("wrong columns", path, ", ".join(schema.names), do)
        return 0
    return rows


def told(error: Exception) -> str:
    return " ".join(str(error).split())


def _fits(schema: pa.Schema, table: str) -> bool:
    if table != EMBEDDINGS:
        return table in TABLES and bool(schema.equals(TABLES[table]))
    vector = schema.field("vector").type if "vector" in schema.names else pa.null()
    return pa.types.is_fixed_size_list(vector) and schema.equals(embeddings(vector.list_size))


def _check_images(root: Root, report: Report) -> None:
    """Every file under images/ against the SHA-256 in its name."""

    def fault(path: str) -> str | None:
        try:
            found = root.sha256(path)
        except StorageError as error:
            return told(error)
        name = path.rsplit("/", 1)[-1].split(".", 1)[0]
        return None if found == name else f"its SHA-256 is {found}"

    with ThreadPoolExecutor(WORKERS) as pool:
        for folder in root.list("images"):
            paths = root.list(folder)
            report.checked["images"] += len(paths)
            for path, found in zip(paths, pool.map(fault, paths), strict=True):
                if found is not None:
                    report.add("damaged image", path, found, f"delete it; {AGAIN}")


def _check_image_rows(root: Root, tables: Tables, report: Report) -> None:
    """Every row of the table of images against the files that are there."""
    for prefix, rows in groupby(_image_rows(tables), key=lambda row: row[0][:2]):
        files = {*root.list(f"images/{prefix}"), *root.list(f"views/{prefix}")}
        for _, path, view in rows:
            if path not in files:
                report.add("missing image", path, "the table `images` names it", AGAIN)
            if view is not None:
                report.checked["views"] += 1
                if view not in files:
                    report.add("missing view", view, "the table `images` names it", AGAIN)


def _image_rows(tables: Tables) -> Iterator[tuple[str, str, str | None]]:
    sql = f"SELECT key, path, view_path FROM {tables.source('images', IMAGES)} ORDER BY key"
    for batch in tables.batches(sql, READ_ROWS):
        yield from zip(*(column.to_pylist() for column in batch.columns), strict=True)


def _check_dataset(root: Root, folder: str, report: Report) -> None:
    """The manifest against the folder, and every file that it names against the manifest."""
    report.checked["datasets"] += 1
    path = f"{folder}/manifest.json"
    try:
        manifest = root.read_json(path)
        if manifest is None:
            do = "delete the folder: it is no dataset, and a build writes it anew"
            report.add("unfinished dataset", folder, "there is no manifest.json", do)
            return
        named, kept = manifest["dataset"], manifest["kept"]
        files = [(f["path"], f["rows"], f["sha256"]) for f in manifest["files"]]
        written = sum(rows for name, rows, _ in files if name.startswith("preferences/"))
    except (StorageError, KeyError, TypeError, AttributeError) as error:
        report.add("damaged manifest", path, f"{type(error).__name__}: {told(error)}", MANIFEST)
        return
    if (named, kept) != (folder.rsplit("/", 1)[-1], written):
        found = f"it is for dataset {named} with {kept} rows; its files have {written}"
        report.add("damaged manifest", path, found, MANIFEST)
    for name, rows, sha256 in files:
        report.checked["dataset files"] += 1
        fault = _dataset_fault(root, f"{folder}/{name}", rows, sha256)
        if fault is not None:
            report.add("damaged dataset file", f"{folder}/{name}", fault, MANIFEST)


def _dataset_fault(root: Root, path: str, rows: int, sha256: str) -> str | None:
    try:
        digest = root.sha256(path)
        with root.reading(path) as opened:
            footer = pq.read_metadata(opened)
    except (*parts.DAMAGE, StorageError) as error:
        return told(error)
    schema = PREFERENCES if "/preferences/" in path else DECISIONS
    if digest != sha256:
        return f"its SHA-256 is {digest}, the manifest says {sha256}"
    if footer.num_rows != rows:
        return f"it has {footer.num_rows} rows, the manifest says {rows}"
    if not footer.schema.to_arrow_schema().remove_metadata().equals(schema):
        return f"its columns are {', '.join(footer.schema.names)}"
    return None


def _check_cache(cache_dir: Path, report: Report) -> None:
    answers, fault = check_cache(cache_dir)
    report.checked["cached answers"] += answers
    if fault is not None:
        report.add("damaged response cache", str(cache_dir), fault, CACHE)
