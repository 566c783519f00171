"""What a calling stage has to do: the rows without an output, in batches.

    pending = inputs anti-join outputs under the stage's recipe digest

Resume, retry, new rows and a changed prompt are this one query. The pending keys are counted
once; their texts are joined chunk by chunk, so memory does not grow with the dataset. A batch
travels as the path of its work file and a row group in it.
"""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import PurePosixPath

import pyarrow as pa
import pyarrow.parquet as pq

from config.digest import text_digest
from config.errors import InputMissing, StorageError
from stages.base import CallStage, Row, Work
from stages.results import failure_row
from storage import parts
from storage.mending import mend
from storage.schemas import FAILURES
from storage.tables import Tables

CHUNK_ROWS = 2048


@dataclass(frozen=True)
class Batch:
    """Where a batch's rows stand: nothing else travels."""

    stage: str
    path: str
    row_group: int

    @property
    def name(self) -> str:
        """How a person counts it: work file, then batch in it, from 1."""
        return f"{int(PurePosixPath(self.path).stem) + 1}.{self.row_group + 1}"


@dataclass(frozen=True)
class Retry:
    """Which failed rows are asked afresh; None means any."""

    stage: str | None = None
    error_class: str | None = None

    def sql(self, stage: str) -> str:
        if self.stage not in (None, stage):
            return "false"
        if self.error_class is None:
            return "true"
        return "error_class = '" + self.error_class.replace("'", "''") + "'"


def part_name(work: Work, units: list[Row]) -> str:
    """One for each batch of a run, by its rows, so that one that is tried again doubles none."""
    return text_digest("\n".join([work.run_id, *(unit["key"] for unit in units)]))[:16]


def read_batch(work: Work, batch: Batch) -> list[Row]:
    """The batch's rows from its work file."""
    data = work.root.read_bytes(batch.path)
    rows: list[Row] = pq.ParquetFile(io.BytesIO(data)).read_row_group(batch.row_group).to_pylist()
    return rows


class Pending:
    """The pending rows of one stage, found once and handed out in batches."""

    def __init__(self, work: Work, stage: CallStage, retry: Retry | None = None) -> None:
        self.work, self.stage = work, stage
        self.recipe = work.chain.of(stage.name)
        self.tables = work.tables()
        mend(work.root, self.tables, stage.table, self.recipe)
        self.tables.execute(
            f"CREATE TEMP TABLE pending AS SELECT k.*, "
            f"row_number() OVER (ORDER BY k.key) - 1 AS place, coalesce(f.nonce, 0) AS nonce "
            f"FROM ({stage.keys(work, self.tables)}) AS k "
            f"ANTI JOIN {self.tables.source(stage.table, self.recipe)} AS done ON done.key = k.key "
            f"LEFT JOIN {nonces_sql(self.tables, stage.name, self.recipe, retry)} AS f "
            "ON f.key = k.key"
        )
        self.count = int(self.tables.scalar("SELECT count(*) FROM pending"))

    def close(self) -> None:
        self.tables.close()
        self.work.root.remove(f"work/{self.work.run_id}/{self.stage.name}")

    def chunk(self, number: int) -> list[Batch]:
        """Writes the work file of one chunk; gives its batches. Raises StorageError."""
        low = number * CHUNK_ROWS
        high = min(low + CHUNK_ROWS, self.count)
        self.tables.execute(
            "CREATE OR REPLACE TEMP TABLE chunk AS "
            f"SELECT * EXCLUDE (place) FROM pending WHERE place >= {low} AND place < {high}"
        )
        texts = self.stage.texts(self.work, self.tables, "chunk")
        data = self.tables.table(
            f"SELECT t.*, c.nonce AS row_nonce, c.unit AS row_unit FROM ({texts}) AS t "
            "JOIN chunk AS c ON c.key = t.key ORDER BY t.key"
        )
        found = _renamed(data)
        if found.num_rows < high - low:
            self._fail_missing(found)
        elif found.num_rows > high - low:
            raise StorageError(
                f"{self.stage.name}: {high - low} pending rows, but {data.num_rows} with their "
                f"texts; a table of an earlier stage holds a row twice in {self.work.root.url}: "
                "run again, which mends it"
            )
        return self._write(number, found)

    def _fail_missing(self, found: pa.Table) -> None:
        """Pending rows whose texts or images are gone fail; the others go on."""
        self.tables.put("with_texts", found.select(["key"]))
        units = self.tables.rows("SELECT * FROM chunk ANTI JOIN with_texts USING (key)")
        error = InputMissing(
            "the row of an earlier table that it needs is gone: a part under tables/ was removed; "
            "ingest the input again"
        )
        rows = [failure_row(self.work, self.stage.name, unit, error) for unit in units]
        name = part_name(self.work, units)
        parts.write_rows(self.work.root, "failures", self.recipe, rows, FAILURES, name)
        self.work.progress.add(self.stage.name, failed=len(rows))

    def _write(self, number: int, data: pa.Table) -> list[Batch]:
        size = self.work.settings.batch_rows
        path = f"work/{self.work.run_id}/{self.stage.name}/{number:06d}.parquet"
        self.work.root.write_bytes(path, parts.to_parquet(data, row_group_size=size))
        groups = -(-data.num_rows // size)
        return [Batch(self.stage.name, path, group) for group in range(groups)]

    @property
    def chunks(self) -> int:
        return -(-self.count // CHUNK_ROWS)

    async def batches(self, chunks: range) -> AsyncIterator[Batch]:
        for number in chunks:
            for batch in await asyncio.to_thread(self.chunk, number):
                yield batch


def _renamed(data: pa.Table) -> pa.Table:
    kept = [name for name in data.column_names if name not in ("nonce", "unit")]
    names = [{"row_nonce": "nonce", "row_unit": "unit"}.get(name, name) for name in kept]
    return data.select(kept).rename_columns(names)


def nonces_sql(tables: Tables, stage: str, recipe: str, retry: Retry | None) -> str:
    """key, nonce of the failed rows that are to be asked afresh: one more than ever before.

    Without a retry every nonce is 0: an answer that was bad is taken from the cache, costs
    nothing, and fails again.
    """
    failures = tables.source("failures", recipe)
    where = "false" if retry is None else retry.sql(stage)
    return (
        "(SELECT key, nonce FROM (SELECT key, max(nonce) + 1 AS nonce, "
        "arg_max(error_class, failed_at) AS error_class "
        f"FROM {failures} WHERE stage = '{stage}' GROUP BY key) WHERE {where})"
    )
