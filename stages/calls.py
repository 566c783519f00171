"""Runs a stage that calls a model: what is pending, in batches, on one event loop.

    pending = inputs anti-join outputs under the stage's recipe digest

Resume, retry, new rows and a changed prompt are this one query. The pending keys are counted
once; their texts are joined chunk by chunk, so memory does not grow with the dataset. A batch
travels as the path of its work file and a row group in it.
"""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from config.digest import text_digest
from config.errors import InputMissing, RecipeError, RowError, Spent, StageStopped, StorageError
from config.settings import Role
from models.chat import ChatClient, spent_on
from stages.base import CallStage, Outcome, Row, Work
from stages.results import failure_row, settle
from storage import parts
from storage.images import ImageStore
from storage.mending import mend
from storage.schemas import FAILURES
from storage.tables import Tables

CHUNK_ROWS = 2048
# Rows under way for each call on the wire: a batch ends with its unluckiest row, and while that
# one backs off the others must fill the slots.
ROWS_A_SLOT = 8


@dataclass(frozen=True)
class Batch:
    """Where a batch's rows stand: nothing else travels."""

    stage: str
    path: str
    row_group: int


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


@dataclass
class BatchRunner:
    """Does batches of one stage with one client. Free of Prefect: tasks wrap `run`."""

    work: Work
    stage: CallStage
    client: ChatClient
    images: ImageStore
    process: Callable[[Row, int], Awaitable[Outcome]] = field(init=False)

    def __post_init__(self) -> None:
        self.process = self.stage.processor(self.work, self.client, self.images)

    async def run(self, batch: Batch) -> dict[str, Any]:
        """Does every row of the batch, writes its parts, and gives a receipt (JSON values).

        A batch that is run again replaces its parts. An error that nobody foresaw fails its row.
        Raises StageStopped after writing what was done, when the stage cannot go on.
        """
        units = read_batch(self.work, batch)
        results, tables = settle(
            await asyncio.gather(
                *(self.process(unit, unit["nonce"]) for unit in units), return_exceptions=True
            )
        )
        outcomes = [found for found in results if isinstance(found, Outcome)]
        failed = [
            failure_row(self.work, self.stage.name, unit, found)
            for unit, found in zip(units, results, strict=True)
            if isinstance(found, RowError)
        ]
        costs = [spent_on(outcome.answers) for outcome in outcomes]
        costs += [found.spent for found in results if isinstance(found, RowError)]
        spent = _sum(costs)
        receipt = {**self._save(units, tables, failed), "rows": len(outcomes), **spent}
        self.work.progress.add(self.stage.name, done=len(outcomes), failed=len(failed), **spent)
        for found in results:
            if isinstance(found, BaseException) and not isinstance(found, RowError):
                raise found
        return receipt

    def _save(
        self, units: list[Row], tables: dict[str, pa.Table], failed: list[Row]
    ) -> dict[str, Any]:
        work, stage = self.work, self.stage
        recipe, name = work.chain.of(stage.name), _part_name(work, units)
        # The stage's own table is written last: its rows say that the others are complete.
        written = [
            parts.write_table(work.root, table, recipe, tables[table], name)
            for table in sorted(tables, key=lambda table: table == stage.table)
        ]
        if failed:
            written.append(parts.write_rows(work.root, "failures", recipe, failed, FAILURES, name))
        return {
            "stage": stage.name,
            "parts": written,
            "failures": len(failed),
        }


def _part_name(work: Work, units: list[Row]) -> str:
    """One for each batch of a run, by its rows, so that one that is tried again doubles none."""
    return text_digest("\n".join([work.run_id, *(unit["key"] for unit in units)]))[:16]


def _sum(costs: list[Spent]) -> dict[str, float]:
    """Calls of all; tokens and dollars of the rows that were paid for in this run."""
    paid = [cost for cost in costs if cost.calls]
    return {
        "calls": sum(cost.calls for cost in costs),
        "cached": sum(cost.cached for cost in costs),
        "prompt_tokens": sum(cost.prompt_tokens for cost in paid),
        "completion_tokens": sum(cost.completion_tokens for cost in paid),
        "cost_usd": sum(cost.cost_usd for cost in paid),
    }


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
        name = _part_name(self.work, units)
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


def no_endpoint(calls: dict[Role, int]) -> RecipeError:
    """The error of roles that have calls to make and no endpoint."""
    told = ", ".join(f"{role} ({count:,} calls)" for role, count in calls.items())
    names = ", ".join(f"VISPREF_{role.upper()}__BASE_URL" for role in calls)
    return RecipeError(
        f"no endpoint is configured for {told}: set {names}, e.g. to http://127.0.0.1:8000/v1"
    )


RunBatch = Callable[[Batch], Awaitable[dict[str, Any]]]
# Does the work of shard `number` of `of`; an orchestrator makes it a run of its own.
RunShard = Callable[[int, int, Callable[[], Awaitable[None]]], Awaitable[None]]


async def alone(number: int, of: int, work: Callable[[], Awaitable[None]]) -> None:
    await work()


async def run_call_stage(
    work: Work,
    stage: CallStage,
    client: ChatClient | None,
    images: ImageStore,
    *,
    retry: Retry | None = None,
    wrap: Callable[[RunBatch], RunBatch] = lambda run: run,
    shards: RunShard = alone,
) -> None:
    """Does all that is pending in one stage. `wrap` makes a batch an orchestrator's task, `shards`
    each `shard_rows` of a very large stage a run of its own, one after another.

    client: None where the stage's role has no endpoint. Raises RecipeError where rows are pending
    and there is none; StageStopped once every batch in flight has written what it did.
    """
    pending = await asyncio.to_thread(Pending, work, stage, retry)
    work.progress.begin(stage.name, pending.count)
    try:
        if pending.count:
            if client is None:
                raise no_endpoint({stage.role: pending.count})
            runner = BatchRunner(work, stage, client, images)
            at_once = 1 + -(-ROWS_A_SLOT * client.endpoint.concurrency // work.settings.batch_rows)
            run = wrap(runner.run)
            chunks = max(1, work.settings.shard_rows // CHUNK_ROWS)
            starts = range(0, pending.chunks, chunks)
            for number, start in enumerate(starts, 1):
                part = range(start, min(start + chunks, pending.chunks))
                await shards(
                    number, len(starts), partial(_drain, work, pending, part, run, at_once)
                )
    except StageStopped as stopped:
        work.progress.end(stage.name, "stopped", str(stopped))
        raise
    finally:
        await asyncio.to_thread(pending.close)
    work.progress.end(stage.name)


async def _drain(work: Work, pending: Pending, chunks: range, run: RunBatch, at_once: int) -> None:
    running: set[asyncio.Task[dict[str, Any]]] = set()
    try:
        async for batch in pending.batches(chunks):
            work.check_going()
            running.add(asyncio.ensure_future(run(batch)))
            if len(running) >= at_once:
                done, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()
        for task in asyncio.as_completed(list(running)):
            await task
    except asyncio.CancelledError:
        for task in running:
            task.cancel()
        raise
    finally:
        # One batch has stopped the stage: the others write what they have before it ends.
        await asyncio.gather(*running, return_exceptions=True)
