"""Many small parts made few. Whatever moment a merge is killed at, no row is lost or doubled.

1. The merged part is written whole under a name that nobody reads.
2. `merging.json` is written beside it. From here on the merge is decided: the project's own readers
   see the merged part and not those it replaces (`storage/parts.py`).
3. The merged part is renamed, those it replaces are removed, and `merging.json` last.

What a kill leaves of 1 is swept; of 3, the next run or merge puts in place (`finish`). Called under
the root's lock. A reader that listed the files before 2, or a client that reads by a pattern of its
own, as those of `catalog.duckdb` do, may find a part gone that it was about to open, or, rarely, see
rows twice during 3: it asks again.
"""

from __future__ import annotations

import io
import uuid
from collections.abc import Iterator
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from config.errors import StorageError
from storage import parts
from storage.root import Root

PART_ROWS = 200_000
PART_BYTES = 64_000_000  # uncompressed; a merge holds at most twice that in memory
GROUP_BYTES = 16_000_000  # of a row group, uncompressed
FEW = 8  # fewer small parts than this are left as they are
STAGED = ".staged"


@dataclass(frozen=True)
class Merged:
    """How many parts a table had and has; how many could not be read and stand as they were."""

    before: int
    after: int
    unreadable: int


@dataclass(frozen=True)
class Part:
    """What a part's footer says."""

    path: str
    rows: int
    size: int  # bytes, uncompressed
    schema: bytes


def finish(root: Root) -> int:
    """Puts merges in place that were decided and cut short; gives how many."""
    found = 0
    for table in root.list("tables"):
        for folder in root.list(table):
            if root.exists(f"{folder}/{parts.MERGING}"):
                _put_in_place(root, folder)
                found += 1
    return found


def merge_small(
    root: Root,
    table: str,
    recipe: str,
    *,
    few: int = FEW,
    part_rows: int = PART_ROWS,
    part_bytes: int = PART_BYTES,
) -> Merged:
    """Merges a table's small parts, those of under half the size given, where there are `few` or
    more. Parts that differ in their columns are not merged with one another.

    `finish` has to have been called.
    """
    paths = parts.paths(root, table, recipe)
    known = [part for path in paths if (part := _footer(root, path)) is not None]
    small = [p for p in known if p.rows * 2 < part_rows and p.size * 2 < part_bytes]
    unreadable, removed = len(paths) - len(known), 0
    if len(small) >= few:
        for group in _groups(small, part_rows, part_bytes):
            try:
                data = _merged(root, group)
            except (*parts.DAMAGE, StorageError):  # `verify` says which of them it is
                unreadable += 1
                continue
            _replace(root, parts.directory(table, recipe), group, data)
            removed += len(group) - 1
    return Merged(len(paths), len(paths) - removed, unreadable)


def _footer(root: Root, path: str) -> Part | None:
    """None for a part that is no whole Parquet file."""
    try:
        with root.reading(path) as file:
            footer = pq.read_metadata(file)
    except (*parts.DAMAGE, StorageError):
        return None
    size = sum(footer.row_group(i).total_byte_size for i in range(footer.num_row_groups))
    schema = footer.schema.to_arrow_schema().remove_metadata().serialize().to_pybytes()
    return Part(path, footer.num_rows, size, schema)


def _groups(small: list[Part], part_rows: int, part_bytes: int) -> Iterator[list[Part]]:
    """Parts that become one, two or more each."""
    for schema in sorted({part.schema for part in small}):
        group: list[Part] = []
        rows = size = 0
        for part in (part for part in small if part.schema == schema):
            group.append(part)
            rows, size = rows + part.rows, size + part.size
            if rows >= part_rows or size >= part_bytes:
                yield group
                group, rows, size = [], 0, 0
        if len(group) > 1:
            yield group


def _replace(root: Root, folder: str, group: list[Part], data: bytes) -> None:
    name = uuid.uuid4().hex[:16]
    root.write_bytes(f"{folder}/{name}{STAGED}", data)
    root.write_json(
        f"{folder}/{parts.MERGING}",
        {
            "staged": f"{name}{STAGED}",
            "part": f"part-{name}.parquet",
            "replaces": [part.path.rsplit("/", 1)[-1] for part in group],
        },
    )
    _put_in_place(root, folder)


def _merged(root: Root, group: list[Part]) -> bytes:
    """The rows of all parts in one file, row group by row group."""
    buffer = io.BytesIO()
    schema = pa.ipc.read_schema(pa.py_buffer(group[0].schema))
    with pq.ParquetWriter(buffer, schema, compression="zstd", write_page_checksum=True) as writer:
        waiting: list[pa.Table] = []
        for part in group:
            for read in _row_groups(root, part):
                waiting.append(read)
                if sum(table.nbytes for table in waiting) >= GROUP_BYTES:
                    writer.write_table(pa.concat_tables(waiting))
                    waiting = []
        if waiting:
            writer.write_table(pa.concat_tables(waiting))
    return buffer.getvalue()


def _row_groups(root: Root, part: Part) -> Iterator[pa.Table]:
    with root.reading(part.path) as file:
        found = pq.ParquetFile(file, page_checksum_verification=True)
        for number in range(found.num_row_groups):
            yield found.read_row_group(number).replace_schema_metadata(None)


def _put_in_place(root: Root, folder: str) -> None:
    merge = root.read_json(f"{folder}/{parts.MERGING}")
    if root.exists(f"{folder}/{merge['staged']}"):
        root.rename(f"{folder}/{merge['staged']}", f"{folder}/{merge['part']}")
    for name in merge["replaces"]:
        root.remove(f"{folder}/{name}")
    root.remove(f"{folder}/{parts.MERGING}")
