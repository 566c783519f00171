"""What building and retrying have in common: the stages in order, under the root's lock."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from prefect import get_run_logger

from config.changes import Changes
from config.errors import InputError, StageStopped
from config.recipe import Recipe
from config.settings import Settings, load_settings
from sources.spec import InputSpec
from stages import assemble, chain, ingest, mine, plan, scan
from stages.base import Progress, Work
from stages.calls import run_call_stage
from stages.embed import embed
from stages.pending import Retry
from stages.run import CALL_STAGES, holding, open_clients, open_work, record_end, record_start
from storage.catalog import write_catalog
from storage.root import Root
from tasks.batches import call_batches, in_shards, whole_stage
from tasks.failures import publish_failures
from tasks.keys import with_keys
from tasks.reports import publish_card, reporting
from tasks.runners import computing
from tasks.stopping import stopped_by_signal

# A terminal that shows the run's progress puts its counters here; a deployment leaves it alone.
SHOWN: ContextVar[Progress | None] = ContextVar("shown", default=None)
# How a terminal is told that the run waits for another; a deployment's log is told instead.
TELL: ContextVar[Callable[[str], None] | None] = ContextVar("tell", default=None)


async def settings_of_run(settings_file: str | None, changes: Changes) -> Settings:
    """The machine's settings with this run's changes and the keys of their Secret blocks."""
    settings = load_settings(Path(settings_file) if settings_file else None)
    return await with_keys(changes.applied(settings))


async def build(
    root: Root,
    recipe: Recipe,
    settings: Settings,
    *,
    spec: InputSpec | None,
    retry: Retry | None,
    wait: bool,
) -> dict[str, Any]:
    """Does all that is pending under `root`; gives the dataset's receipt.

    spec: the input; None goes on with the rows of the newest ingest. Raises StageStopped when it
    cannot go on or is cancelled: what was done is kept, and the same call goes on from there.
    """
    work = open_work(root, recipe, settings, SHOWN.get())
    say = TELL.get() or get_run_logger().warning
    async with holding(work, wait=wait, say=say), reporting(work.progress):
        await asyncio.to_thread(plan.check_endpoints, work, spec)
        record_start(work, spec)
        with stopped_by_signal(work):
            try:
                receipt = await _stages(work, spec, retry)
            except StageStopped:
                record_end(work, "stopped")
                await asyncio.to_thread(write_catalog, work.root)
                await publish_failures(work.root)
                raise
        record_end(work, "completed")
        await asyncio.to_thread(write_catalog, work.root)
        await publish_failures(work.root)
        await publish_card(work.root, receipt)
    return receipt


async def _stages(work: Work, spec: InputSpec | None, retry: Retry | None) -> dict[str, Any]:
    if spec is not None:
        await whole_stage(chain.INGEST, lambda: ingest.ingest(work, spec))
    elif work.ingest is None:
        raise InputError(f"{work.root.url} has no rows yet: name an input with --input")
    # The catalogue is made again after each stage: whoever opens it sees what there is so far.
    await asyncio.to_thread(write_catalog, work.root)
    async with computing(work.settings) as compute:
        await whole_stage(chain.EMBED_CLIP, lambda: embed(work, chain.EMBED_CLIP, compute))
        await whole_stage(chain.SCAN, lambda: scan.scan(work, compute))
        await whole_stage(chain.EMBED_DINO, lambda: embed(work, chain.EMBED_DINO, compute))
    await whole_stage(chain.MINE, lambda: mine.mine(work))
    await asyncio.to_thread(write_catalog, work.root)
    async with open_clients(work) as clients:
        for stage in CALL_STAGES:
            await run_call_stage(
                work,
                stage,
                clients.of(stage),
                clients.images,
                retry=retry,
                wrap=call_batches(stage.name),
                shards=in_shards(stage.name),
            )
            await asyncio.to_thread(write_catalog, work.root)
    receipt: dict[str, Any] = await whole_stage(chain.ASSEMBLE, lambda: assemble.assemble(work))
    return receipt
