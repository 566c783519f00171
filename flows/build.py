"""The main job: images and prompts in, a symmetric preference dataset out."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextvars import ContextVar
from pathlib import Path
from typing import Any, Literal

from prefect import flow, get_run_logger
from prefect.runtime import flow_run

from config.errors import InputError, StageStopped
from config.recipe import parse_recipe
from config.settings import load_settings
from sources.spec import InputSpec
from stages import assemble, chain, ingest, mine, plan, scan
from stages.base import Progress, Work
from stages.calls import Retry, run_call_stage
from stages.embed import embed
from stages.run import CALL_STAGES, holding, open_clients, open_work, record_end, record_start
from storage.catalog import write_catalog
from storage.root import Root
from tasks.batches import call_batches, whole_stage
from tasks.keys import with_keys
from tasks.reports import publish_card, reporting

# A terminal that shows the run's progress puts its counters here; a deployment leaves it alone.
SHOWN: ContextVar[Progress | None] = ContextVar("shown", default=None)
# How a terminal is told that the run waits for another; a deployment's log is told instead.
TELL: ContextVar[Callable[[str], None] | None] = ContextVar("tell", default=None)


def run_name() -> str:
    parameters = flow_run.parameters
    place = str(parameters["root"]).rstrip("/").rsplit("/", 1)[-1]
    what = "retry" if parameters.get("retry") else "build"
    return f"{what} {parameters['recipe'].get('name', '?')} in {place}"


@flow(name="build-dataset", flow_run_name=run_name, persist_result=False)
async def build_dataset(
    recipe: dict[str, Any],
    root: str,
    source: dict[str, Any] | None = None,
    settings_file: str | None = None,
    retry: dict[str, str | None] | None = None,
    if_busy: Literal["wait", "refuse"] = "wait",
) -> dict[str, Any]:
    """Builds or goes on with the dataset under `root`.

    recipe: a resolved recipe. source: the input (see sources.spec.InputSpec); without one the
    rows of the newest ingest are used. retry: {"stage": ..., "error_class": ...}, the failed rows
    to ask afresh. Gives a receipt of JSON values. Raises StageStopped when it cannot go on;
    whatever was done is kept, and the same call goes on from there.
    """
    settings = await with_keys(load_settings(Path(settings_file) if settings_file else None))
    work = open_work(Root(root), parse_recipe(recipe), settings, SHOWN.get())
    say = TELL.get() or get_run_logger().warning
    async with holding(work, wait=if_busy == "wait", say=say), reporting(work.progress):
        spec = None if source is None else InputSpec(**source)
        await asyncio.to_thread(plan.check_endpoints, work, spec)
        record_start(work, spec)
        try:
            receipt = await _stages(work, spec, None if retry is None else Retry(**retry))
        except StageStopped:
            record_end(work, "stopped")
            write_catalog(work.root)
            raise
        record_end(work, "completed")
        write_catalog(work.root)
        await publish_card(work.root.read_bytes(f"{receipt['path']}/README.md").decode())
    return receipt


async def _stages(work: Work, spec: InputSpec | None, retry: Retry | None) -> dict[str, Any]:
    if spec is not None:
        await whole_stage(chain.INGEST, lambda: ingest.ingest(work, spec))
        write_catalog(work.root)  # the older ingest that it names is gone
    elif work.ingest is None:
        raise InputError(f"{work.root.url} has no rows yet: name an input with --input")
    await whole_stage(chain.EMBED_CLIP, lambda: embed(work, chain.EMBED_CLIP))
    await whole_stage(chain.SCAN, lambda: scan.scan(work))
    await whole_stage(chain.EMBED_DINO, lambda: embed(work, chain.EMBED_DINO))
    await whole_stage(chain.MINE, lambda: mine.mine(work))
    async with open_clients(work) as clients:
        for stage in CALL_STAGES:
            await run_call_stage(
                work,
                stage,
                clients.of(stage),
                clients.images,
                retry=retry,
                wrap=call_batches(stage.name),
            )
    receipt: dict[str, Any] = await whole_stage(chain.ASSEMBLE, lambda: assemble.assemble(work))
    return receipt
