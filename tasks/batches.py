"""Prefect tasks: a batch of rows each, with retries. What is done lies in `stages`.

A task is given the place of its batch and gives back a receipt of JSON values. Results are not
persisted and nothing is cached by Prefect: a batch that ran is known by its rows.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

from prefect import flow, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from prefect.tasks import Task

from config.errors import VisprefError
from stages.calls import RunBatch, RunShard
from stages.pending import Batch

RETRIES = 2
RETRY_DELAY_S = [2, 10]


class Deliberate:
    """Remembers whether a stage was stopped on purpose (a spent budget, a dead endpoint, a full
    disk): that is not tried again. Any other error may pass, whatever it is."""

    def __init__(self) -> None:
        self.stopped = False

    @contextmanager
    def watching(self) -> Iterator[None]:
        try:
            yield
        except VisprefError:
            self.stopped = True
            raise

    def condition(self) -> Callable[[Task[Any, Any], TaskRun, State[Any]], bool]:
        """A plain function: Prefect takes no method for its `retry_condition_fn`."""

        def worth_retrying(task: Task[Any, Any], run: TaskRun, state: State[Any]) -> bool:
            return not self.stopped

        return worth_retrying


def call_batches(stage: str) -> Callable[[RunBatch], RunBatch]:
    """Makes the batches of one calling stage tasks on the flow's own event loop."""

    def wrap(run: RunBatch) -> RunBatch:
        deliberate = Deliberate()

        @task(
            name=stage,
            task_run_name=f"{stage} {{name}}",
            # No tags: a tag makes Prefect ask its server for a concurrency slot before each run,
            # and that call blocks the loop on which every request is under way.
            retries=RETRIES,
            retry_delay_seconds=RETRY_DELAY_S,
            retry_condition_fn=deliberate.condition(),
            cache_policy=NO_CACHE,
            persist_result=False,
        )
        async def batch_of_calls(name: str, path: str, row_group: int) -> dict[str, Any]:
            with deliberate.watching():
                return await run(Batch(stage, path, row_group))

        async def run_as_task(batch: Batch) -> dict[str, Any]:
            return await batch_of_calls(batch.name, batch.path, batch.row_group)

        return run_as_task

    return wrap


def in_shards(stage: str) -> RunShard:
    """Makes each shard of a very large stage a subflow: a flow run of Prefect holds thousands of
    task runs well, and not many more. A stage of one shard stays in the run itself."""

    async def run(number: int, of: int, work: Callable[[], Awaitable[None]]) -> None:
        if of == 1:
            await work()
            return

        @flow(name="shard", flow_run_name=f"{stage} {number} of {of}", persist_result=False)
        async def shard() -> None:
            await work()

        await shard()

    return run


async def whole_stage(stage: str, run: Callable[[], Any]) -> Any:
    """Runs a stage that is one unit of work as one task, off the event loop."""
    deliberate = Deliberate()

    @task(
        name=stage,
        task_run_name=stage,
        tags=[stage],
        retries=RETRIES,
        retry_delay_seconds=RETRY_DELAY_S,
        retry_condition_fn=deliberate.condition(),
        cache_policy=NO_CACHE,
        persist_result=False,
    )
    async def stage_task() -> Any:
        with deliberate.watching():
            return await asyncio.to_thread(run)

    return await stage_task()
