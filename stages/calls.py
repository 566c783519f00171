"""Runs a stage that calls a model: what is pending (stages.pending), in batches, on one event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pyarrow as pa

from config.errors import RecipeError, RowError, Spent
from config.settings import Role
from models.chat import ChatClient, spent_on
from stages.base import CallStage, Outcome, Row, Work
from stages.pending import CHUNK_ROWS, Batch, Pending, Retry, part_name, read_batch
from stages.results import failure_row, settle
from storage import parts
from storage.images import ImageStore
from storage.schemas import FAILURES

# Rows under way for each call on the wire: a batch ends with its unluckiest row, and while that
# one backs off the others must fill the slots.
ROWS_A_SLOT = 8


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
        recipe, name = work.chain.of(stage.name), part_name(work, units)
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
    try:
        with work.progress.running(stage.name, pending.count):
            if pending.count:
                if client is None:
                    raise no_endpoint({stage.role: pending.count})
                run = wrap(BatchRunner(work, stage, client, images).run)
                async with client.calling(lambda note: work.progress.tell(stage.name, note)):
                    await _in_shards(work, pending, client.endpoint.concurrency, run, shards)
    finally:
        await asyncio.to_thread(pending.close)


async def _in_shards(
    work: Work, pending: Pending, concurrency: int, run: RunBatch, shards: RunShard
) -> None:
    at_once = 1 + -(-ROWS_A_SLOT * concurrency // work.settings.batch_rows)
    chunks = max(1, work.settings.shard_rows // CHUNK_ROWS)
    starts = range(0, pending.chunks, chunks)
    for number, start in enumerate(starts, 1):
        part = range(start, min(start + chunks, pending.chunks))
        await shards(number, len(starts), partial(_drain, work, pending, part, run, at_once))


async def _drain(work: Work, pending: Pending, chunks: range, run: RunBatch, at_once: int) -> None:
    running: set[asyncio.Task[dict[str, Any]]] = set()
    try:
        async for batch in pending.batches(chunks):
            work.check_going()
            running.add(asyncio.ensure_future(run(batch)))
            if len(running) >= at_once:
                done, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                await asyncio.gather(*done)
        for task in asyncio.as_completed(list(running)):
            await task
    except asyncio.CancelledError:
        for task in running:
            task.cancel()
        raise
    finally:
        # One batch has stopped the stage: the others write what they have before it ends.
        await asyncio.gather(*running, return_exceptions=True)
