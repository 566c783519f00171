"""What tests of several packages share: a small world, its models, and the stages in order."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# A loaded machine draws its first example slowly; that is no fault of the code.
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")

os.environ.setdefault("OMP_NUM_THREADS", "2")
# Prefect's servers of the tests tell nobody of themselves.
os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
os.environ.setdefault("DO_NOT_TRACK", "1")


@pytest.fixture(scope="session")
def photos() -> Path:
    """The shared photographs, or a skip that says what is missing."""
    folder = Path(__file__).parents[1].parent / "shared" / "photos"
    if not folder.is_dir():
        pytest.skip(f"the photographs are not beside this clone ({folder})")
    return folder


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory):
    from miniature.checkpoints import make_clip, make_dino

    folder = tmp_path_factory.mktemp("checkpoints")
    return make_clip(folder / "clip"), make_dino(folder / "dino")


@pytest.fixture(scope="session")
def world(tmp_path_factory):
    """24 scenes with prompts and annotations."""
    from miniature.scenes import write_world

    folder = tmp_path_factory.mktemp("world")
    write_world(folder, 24, seed=3)
    return folder


@pytest.fixture
def server(world):
    from miniature.annotations import load_annotations
    from miniature.server import StandInServer

    with StandInServer(load_annotations(world / "annotations.jsonl")) as found:
        yield found


@pytest.fixture
def make_recipe(checkpoints):
    from config.recipe import parse_recipe

    def make(**sections):
        values = {
            "name": "test",
            "embed": {"clip_model": str(checkpoints[0]), "dino_model": str(checkpoints[1])},
            "mine": {"near_duplicate": 0.99999},
            "caption": {"model": "stand-in-captioner"},
            "resample": {"model": "stand-in-reference", "k": 2},
            "extract": {"model": "stand-in-claims"},
            "rewrite": {"model": "stand-in-claims"},
            "assemble": {"split": {"train": 0.8, "validation": 0.2, "test": 0.0}},
        }
        for name, changes in sections.items():
            values[name] = {**values.get(name, {}), **changes}
        return parse_recipe(values)

    return make


@pytest.fixture
def make_settings(tmp_path):
    from config.settings import Endpoint, Settings

    def make(base_url, *, cache="cache", budget=None, **endpoint):
        role = Endpoint(base_url=base_url, **{"timeout_s": 20.0, "max_tries": 4, **endpoint})
        values = {"captioner": role, "reference": role, "claims": role, "batch_rows": 16}
        if budget is not None:
            values["budget"] = budget
        return Settings(cache_dir=tmp_path / cache, **values)

    return make


async def run_stages(work, spec=None, retry=None):
    """The build without Prefect: the stages as the flow composes them."""
    from stages import assemble, chain, ingest, mine, scan
    from stages.calls import run_call_stage
    from stages.embed import embed
    from stages.run import CALL_STAGES, open_clients, record_end, record_start

    record_start(work, spec)
    if spec is not None:
        await asyncio.to_thread(ingest.ingest, work, spec)
    await asyncio.to_thread(embed, work, chain.EMBED_CLIP)
    await asyncio.to_thread(scan.scan, work)
    await asyncio.to_thread(embed, work, chain.EMBED_DINO)
    await asyncio.to_thread(mine.mine, work)
    async with open_clients(work) as clients:
        for stage in CALL_STAGES:
            await run_call_stage(work, stage, clients.of(stage), clients.images, retry=retry)
    receipt = await asyncio.to_thread(assemble.assemble, work)
    record_end(work, "completed")
    return receipt


@pytest.fixture
def build():
    """build(root, recipe, settings, spec=None, retry=None) -> (receipt, work)."""
    from stages.run import open_work
    from storage.root import Root

    def run(root, recipe, settings, spec=None, retry=None):
        work = open_work(root if isinstance(root, Root) else Root(root), recipe, settings)
        return asyncio.run(run_stages(work, spec, retry)), work

    return run
