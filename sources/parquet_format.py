"""Parquet, read by batches of rows and only the columns that are needed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from config.errors import InputError
from sources.rows import BadRow, Row

BATCH_ROWS = 64  # rows may carry whole image files


def parquet_columns(path: Path) -> list[str]:
    """The names of the top-level columns. Raises InputError where the file is no Parquet."""
    try:
        names = list(pq.read_schema(path).names)
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{path} is not a readable Parquet file: {error}") from error
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise InputError(f"{path}: columns stand twice: {', '.join(twice)}; rename them")
    return names


def parquet_rows(path: Path, columns: Sequence[str]) -> Iterator[Row]:
    """The rows of the named columns. A file damaged further down raises InputError there."""
    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=BATCH_ROWS, columns=list(columns)):
                yield from arrow_rows(batch)
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{path} is not a readable Parquet file: {error}") from error


def arrow_rows(batch: pa.RecordBatch | pa.Table) -> Iterator[Row]:
    """The batch's rows; one whose values cannot be read (a text not UTF-8) is a bad row."""
    for number in range(batch.num_rows):
        try:
            yield {name: batch.column(name)[number].as_py() for name in batch.schema.names}
        except (ValueError, OverflowError, pa.ArrowException) as error:
            yield BadRow(f"a value cannot be read: {error}")
