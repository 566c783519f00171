"""Parquet parts: written whole under a temporary name, renamed, never changed afterwards.

Small parts are merged now and then (`storage/merging.py`). From the moment a merge is decided until
it is in place, `merging.json` stands beside the parts, and whoever reads by this module sees the
merged part and not those it replaces.

Every page has a checksum. Who reads by this module, merges or verifies looks at it, and so reads no
flipped bit as another text; DuckDB does not look.
"""

from __future__ import annotations

import io
import uuid
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from config.errors import StorageError
from storage.root import Root

MERGING = "merging.json"  # {"staged": name, "part": name, "replaces": [names]}
# What reading a damaged file raises, besides an I/O error.
DAMAGE = (pa.ArrowException, UnicodeDecodeError)


def directory(table: str, recipe: str) -> str:
    return f"tables/{table}/{recipe}"


def write_rows(
    root: Root,
    table: str,
    recipe: str,
    rows: Sequence[Mapping[str, Any]],
    schema: pa.Schema,
    name: str | None = None,
) -> str:
    """Writes one part and gives its root-relative path. Raises StorageError.

    With a `name`, writing again replaces: what may be tried again gives its parts one.
    """
    try:
        data = pa.Table.from_pylist(list(rows), schema=schema)
    except (pa.ArrowException, UnicodeError, OverflowError) as error:
        raise StorageError(f"rows do not fit the table {table!r}: {error}") from error
    return write_table(root, table, recipe, data, name)


def write_table(
    root: Root, table: str, recipe: str, data: pa.Table, name: str | None = None
) -> str:
    path = f"{directory(table, recipe)}/part-{name or uuid.uuid4().hex[:16]}.parquet"
    root.write_bytes(path, to_parquet(data))
    return path


def adopt(root: Root, table: str, recipe: str, work_file: str) -> str:
    """Makes a work file of a run a part of a table; gives the part's path.

    The part has the work file's name, which tells its run and rows: one that is made again in
    the same run replaces it.
    """
    name = work_file.removeprefix("work/").replace("/", "-")
    path = f"{directory(table, recipe)}/part-{name}"
    root.rename(work_file, path)
    return path


def to_parquet(data: pa.Table, row_group_size: int | None = None) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(
        data, buffer, compression="zstd", row_group_size=row_group_size, write_page_checksum=True
    )
    return buffer.getvalue()


def paths(root: Root, table: str, recipe: str) -> list[str]:
    """The parts that hold the table now, each row in one of them."""
    return _parts(root, table, recipe)[0]


def sources(root: Root, table: str, recipe: str) -> list[str]:
    """What DuckDB is to read: a pattern, which finds later parts too; the parts one by one while a
    merge is being put in place; nothing where nothing is written."""
    found, merging = _parts(root, table, recipe)
    if merging or not found:
        return found
    return [f"{directory(table, recipe)}/part-*.parquet"]


def _parts(root: Root, table: str, recipe: str) -> tuple[list[str], bool]:
    folder = directory(table, recipe)
    listed = set(root.list(folder))
    found = {path for path in listed if path.endswith(".parquet")}
    if f"{folder}/{MERGING}" not in listed:
        return sorted(found), False
    merge = root.read_json(f"{folder}/{MERGING}")
    if merge is None:  # it is in place by now
        return _parts(root, table, recipe)
    final, staged = f"{folder}/{merge['part']}", f"{folder}/{merge['staged']}"
    merged = final if final in listed else staged
    replaced = {f"{folder}/{name}" for name in merge["replaces"]}
    return sorted((found - replaced) | {merged}), True


def recipes(root: Root, table: str) -> list[str]:
    """The recipe digests under which a table has been written."""
    return [path.rsplit("/", 1)[-1] for path in root.list(f"tables/{table}")]


def read_parts(root: Root, table: str, recipe: str) -> Iterator[pa.Table]:
    """The parts one by one, in a fixed order."""
    for path in paths(root, table, recipe):
        yield read_part(root, path)


def read_part(root: Root, path: str) -> pa.Table:
    data = root.read_bytes(path)
    try:
        return pq.read_table(io.BytesIO(data), page_checksum_verification=True)
    except (*DAMAGE, OSError) as error:
        raise StorageError(
            f"{root.url_of(path)} is not a whole Parquet file: {error}. Delete it: "
            "its rows become pending again and come back from the response cache."
        ) from error
