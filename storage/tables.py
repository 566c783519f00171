"""DuckDB over a root's Parquet parts: the engine behind every "what is pending" and every view."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from config.errors import StorageError
from storage import parts
from storage.root import Root
from storage.schemas import TABLES

THREADS = 2  # each takes buffers of its own; the stages wait for models, not for SQL


class Tables:
    """One DuckDB connection that reads a root's tables. Not shared between threads.

    `memory`: bytes it may take before it spills to a temporary folder under `scratch`.
    """

    def __init__(self, root: Root, memory: int = 256_000_000, scratch: Path | None = None) -> None:
        self.root = root
        self._spill = tempfile.TemporaryDirectory(prefix="vispref-duckdb-", dir=scratch)
        self._connection = connect(root)
        self._connection.execute(f"SET memory_limit = '{memory // 1000}KB'")
        self._connection.execute("SET preserve_insertion_order = false")
        self._connection.execute(f"SET threads = {THREADS}")
        self._connection.execute(f"SET temp_directory = '{self._spill.name}'")

    def close(self) -> None:
        self._connection.close()
        self._spill.cleanup()

    def __enter__(self) -> Tables:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def execute(self, sql: str, parameters: list[Any] | None = None) -> duckdb.DuckDBPyConnection:
        try:
            return self._connection.execute(sql, parameters)
        except duckdb.Error as error:
            raise StorageError(f"{self.root.url}: {error}\nin: {sql.strip()[:2000]}") from error

    def rows(self, sql: str, parameters: list[Any] | None = None) -> list[dict[str, Any]]:
        return self.table(sql, parameters).to_pylist()

    def table(self, sql: str, parameters: list[Any] | None = None) -> pa.Table:
        found: pa.Table = self._relation(sql, parameters).to_arrow_table()
        return found

    def scalar(self, sql: str, parameters: list[Any] | None = None) -> Any:
        found = self.execute(sql, parameters).fetchall()  # all: DuckDB waits for the last row
        return found[0][0] if found else None

    def batches(self, sql: str, rows: int) -> Iterator[pa.RecordBatch]:
        yield from self._relation(sql).to_arrow_reader(rows)

    def _relation(self, sql: str, parameters: list[Any] | None = None) -> duckdb.DuckDBPyRelation:
        try:
            return self._connection.sql(sql, params=parameters)
        except duckdb.Error as error:
            raise StorageError(f"{self.root.url}: {error}\nin: {sql.strip()[:2000]}") from error

    def put(self, name: str, data: pa.Table) -> None:
        """Makes an Arrow table a temporary DuckDB table of that name, replacing an older one."""
        self._connection.register("arriving", data)
        self.execute(f"CREATE OR REPLACE TEMP TABLE {name} AS SELECT * FROM arriving")
        self._connection.unregister("arriving")

    def source(self, table: str, recipe: str | None) -> str:
        """SQL for one table under one recipe digest; typed and empty where nothing is written."""
        found = [] if recipe is None else parts.sources(self.root, table, recipe)
        return parquet_source(self.root, *found) if found else empty_source(TABLES[table])

    def keys(self, table: str, recipe: str | None) -> str:
        """SQL for the keys of one table, also one whose other columns depend on the recipe."""
        found = [] if recipe is None else parts.sources(self.root, table, recipe)
        if found:
            return f"(SELECT key FROM {parquet_source(self.root, *found)})"
        return "(SELECT NULL::VARCHAR AS key WHERE false)"

    def history(self, table: str) -> str:
        """SQL for one table under all its recipe digests, with the digest as column `recipe`."""
        own = "EXCLUDE (recipe)" if "recipe" in TABLES[table].names else ""  # failures name theirs
        selects = [
            f"SELECT * {own}, '{recipe}' AS recipe FROM {self.source(table, recipe)}"
            for recipe in parts.recipes(self.root, table)
            if parts.paths(self.root, table, recipe)
        ]
        if not selects:
            selects = [f"SELECT * {own}, '' AS recipe FROM {empty_source(TABLES[table])}"]
        return "(" + " UNION ALL BY NAME ".join(selects) + ")"


def connect(root: Root) -> duckdb.DuckDBPyConnection:
    """An in-memory DuckDB that can read the root, wherever it is."""
    connection = duckdb.connect(":memory:")
    if not root.is_local:
        connection.register_filesystem(root.fs)
    return connection


def parquet_source(root: Root, *patterns: str) -> str:
    quoted = ", ".join("'" + root.url_of(path).replace("'", "''") + "'" for path in patterns)
    return f"read_parquet([{quoted}], union_by_name = true)"


_DUCKDB_TYPES = {
    pa.string(): "VARCHAR",
    pa.int64(): "BIGINT",
    pa.float32(): "FLOAT",
    pa.float64(): "DOUBLE",
    pa.bool_(): "BOOLEAN",
    pa.list_(pa.string()): "VARCHAR[]",
    pa.timestamp("us", tz="UTC"): "TIMESTAMP WITH TIME ZONE",
}


def empty_source(schema: pa.Schema) -> str:
    columns = ", ".join(f"NULL::{_DUCKDB_TYPES[f.type]} AS {f.name}" for f in schema)
    return f"(SELECT {columns} WHERE false)"
