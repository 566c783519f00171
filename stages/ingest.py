"""Read an input into rows: every image stored once by content, every record accounted for.

A record that cannot be used stands in the table `inputs` with its reason; the rest goes on. The
rows of a run are those of its newest ingest, so an input that lost a line makes a dataset without
it, and nothing that was paid for it is lost.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import islice

from config.digest import image_digest, text_digest
from config.errors import InputError, RefusedImage, VisprefError
from sources.fetch import shown_url
from sources.inspect import render_view
from sources.load import ImageLoader, LoadedImage
from sources.readers import read_records
from sources.records import PathRef, Record, UrlRef
from sources.spec import InputSpec, image_folder
from stages.base import Row, Work, unit_id
from stages.chain import IMAGES, INGEST
from stages.results import escaped
from storage import parts
from storage.catalog import CURRENT, read_current
from storage.images import image_path, view_path
from storage.mending import drop_duplicates
from storage.schemas import IMAGES as IMAGES_SCHEMA
from storage.schemas import INPUTS
from storage.tables import Tables

CHUNK = 512
WORKERS = min(8, os.cpu_count() or 1)


@dataclass(frozen=True)
class Known:
    """A file or URL that an earlier ingest read: unchanged, it is not read again."""

    image: str
    size: int | None
    mtime_ns: int | None


def ingest(work: Work, spec: InputSpec) -> None:
    """Reads the whole input and makes it the root's current one. Raises InputError."""
    progress = work.progress
    progress.begin(INGEST, 0)
    loader = ImageLoader(
        work.settings.inputs, [image_folder(spec), *work.settings.inputs.allowed_folders]
    )
    previous = read_current(work.root)["ingest"]
    for left in parts.recipes(work.root, "inputs"):
        if left != previous or left == work.run_id:  # of a killed ingest, or of a first try
            work.root.remove(parts.directory("inputs", left))
    with work.tables() as tables, ThreadPoolExecutor(WORKERS) as pool:
        drop_duplicates(work.root, tables, "images", IMAGES)
        listed, stored = _stored_images(work, tables)
        _remember(tables, previous)
        seen: set[bytes] = set()
        for chunk in _chunks(read_records(spec), CHUNK):
            known = _known(tables, chunk)
            load = partial(_load, work, loader, known, stored)
            loaded = pool.map(load, chunk)
            rows, images = _account(work, chunk, list(loaded), seen)
            stored.update(row["key"] for row in images)
            _save(work, rows, [row for row in images if row["key"] not in listed])
            listed.update(row["key"] for row in images)
            refused = sum(row["status"] == "refused" for row in rows)
            progress.add(INGEST, total=len(rows), done=len(rows) - refused, failed=refused)
    if not seen:
        progress.end(INGEST, "stopped")
        raise InputError(
            f"{spec.location}: every record was refused; see the reasons with "
            f'vispref query --root {work.root.url} "SELECT reason, message FROM history.inputs"'
        )
    work.ingest = work.run_id
    work.root.write_json(CURRENT, {**read_current(work.root), "ingest": work.run_id})
    if previous not in (None, work.run_id):
        work.root.remove(parts.directory("inputs", previous))
    progress.end(INGEST)


def _stored_images(work: Work, tables: Tables) -> tuple[set[str], set[str]]:
    """The images that the table lists, and those of them whose files are all there."""
    source = tables.source("images", IMAGES)
    found = tables.table(f"SELECT key, path, view_path FROM {source}")
    files = {*work.root.walk("images"), *work.root.walk("views")}
    keys, paths, views = (found.column(name).to_pylist() for name in found.column_names)
    whole = {
        key
        for key, path, view in zip(keys, paths, views, strict=True)
        if path in files and (view is None or view in files)
    }
    return set(keys), whole


def _remember(tables: Tables, previous: str | None) -> None:
    tables.execute(
        "CREATE TEMP TABLE known AS SELECT path, any_value(size) AS size, "
        "any_value(mtime_ns) AS mtime_ns, any_value(image) AS image "
        f"FROM {tables.source('inputs', previous)} "
        "WHERE path IS NOT NULL AND image IS NOT NULL GROUP BY path"
    )


def _known(tables: Tables, chunk: list[Record]) -> dict[str, Known]:
    places = [place for record in chunk if (place := _place(record)) is not None]
    found = tables.rows("SELECT * FROM known WHERE path IN (SELECT unnest(?))", [places])
    return {row["path"]: Known(row["image"], row["size"], row["mtime_ns"]) for row in found}


def _place(record: Record) -> str | None:
    """Where the image lies. A URL's user and query may hold keys: their digest stands for them."""
    if isinstance(record.image, PathRef):
        return str(record.image.path)
    if not isinstance(record.image, UrlRef):
        return None
    url = record.image.url
    shown = shown_url(url)
    return url if shown == url else f"{shown}#{text_digest(url)}"


@dataclass(frozen=True)
class Loaded:
    """What became of one record's image: a digest, and a new row of `images` where it is new."""

    image: str | None = None
    row: Row | None = None
    size: int | None = None
    mtime_ns: int | None = None
    problem: tuple[str, str] | None = None


def _load(
    work: Work, loader: ImageLoader, known: dict[str, Known], stored: set[str], record: Record
) -> Loaded:
    if record.problem is not None or record.image is None:
        return Loaded(problem=record.problem or ("no_image", "the record names no image"))
    before = known.get(_place(record) or "")
    if before is not None and before.image in stored and _unchanged(record, before):
        return Loaded(before.image, size=before.size, mtime_ns=before.mtime_ns)
    try:
        image = loader.load(record.image)
        digest = image_digest(image.data)
        row = None if digest in stored else _store(work, digest, image)
    except RefusedImage as refused:
        return Loaded(problem=(refused.reason, str(refused)))
    except VisprefError:
        raise
    except Exception as error:  # noqa: BLE001 (a decoder that stumbles must not end the ingest)
        message = escaped(f"{type(error).__name__}: {error}")
        return Loaded(problem=("unreadable_file", message))
    return Loaded(digest, row, image.size, image.mtime_ns)


def _store(work: Work, digest: str, image: LoadedImage) -> Row:
    """Writes the image's files; gives its row."""
    info, view = image.info, None
    path = image_path(digest, info.format)
    if info.needs_view:
        rendered, view = render_view(image.data), view_path(digest)
        work.root.write_bytes(view, rendered)
    work.root.write_bytes(path, image.data)
    return {
        "key": digest,
        "path": path,
        "view_path": view,
        "format": info.format,
        "mode": info.mode,
        "width": info.width,
        "height": info.height,
        "size": len(image.data),
    }


def _unchanged(record: Record, before: Known) -> bool:
    if isinstance(record.image, UrlRef):
        return True  # a URL that was fetched once is not fetched again
    if not isinstance(record.image, PathRef):
        return False
    try:
        found = os.stat(record.image.path)
    except OSError:
        return False  # the loader gives the reason
    return (found.st_size, found.st_mtime_ns) == (before.size, before.mtime_ns)


def _account(
    work: Work, chunk: list[Record], loaded: list[Loaded], seen: set[bytes]
) -> tuple[list[Row], list[Row]]:
    rows: list[Row] = []
    images: dict[str, Row] = {}
    for record, found in zip(chunk, loaded, strict=True):
        row_id, status = None, "refused"
        if found.image is not None and record.prompt is not None:
            row_id = unit_id(found.image, record.prompt)
            mark = bytes.fromhex(row_id)
            status = "duplicate" if mark in seen else "accepted"
            seen.add(mark)
        if found.row is not None:
            images[found.row["key"]] = found.row
        reason, message = found.problem or (None, None)
        rows.append(
            {
                "ingest": work.run_id,
                "source": record.source,
                "position": record.position,
                "item": record.item,
                "external_id": record.external_id,
                "status": status,
                "reason": reason,
                "message": message,
                "row_id": row_id,
                "image": found.image,
                "prompt": record.prompt,
                "path": _place(record),
                "size": found.size,
                "mtime_ns": found.mtime_ns,
            }
        )
    return rows, list(images.values())


def _save(work: Work, rows: list[Row], images: list[Row]) -> None:
    if images:
        parts.write_rows(work.root, "images", IMAGES, images, IMAGES_SCHEMA)
    parts.write_rows(work.root, "inputs", work.run_id, rows, INPUTS)


def _chunks(records: Iterable[Record], size: int) -> Iterator[list[Record]]:
    iterator = iter(records)
    while chunk := list(islice(iterator, size)):
        yield chunk
