"""A model server that is killed in the middle of a stage, and started again or not."""

import asyncio
import json
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from dataclasses import replace

import pytest

from benchmarks.synthetic import make_root, open_synthetic
from config.errors import EndpointDown, ModelNotServed
from models import outage
from stages.calls import run_call_stage
from stages.rewrite import RewriteStage
from stages.run import open_clients
from storage.catalog import query
from storage.root import Root

ROWS = 1000
IN_FLIGHT = 40


@pytest.fixture
def root(tmp_path):
    make_root(tmp_path / "root", ROWS)
    return tmp_path / "root"


@pytest.fixture
def start(tmp_path, world):
    """start(port) -> a model server's process, once it serves."""
    processes = []

    def run(port):
        process = subprocess.Popen(
            [sys.executable, "-m", "miniature.server", "--latency-ms", "20", "--port", str(port),
             "--annotations", str(world / "annotations.jsonl")],
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        )  # fmt: skip
        processes.append(process)
        assert process.stdout.readline().startswith("http://")
        return process

    yield run
    for process in processes:
        process.kill()
        process.communicate()


@pytest.fixture
def port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(autouse=True)
def hurry(monkeypatch):
    monkeypatch.setattr(outage, "LONGEST_PAUSE_S", 0.5)


def calls_of(port):
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/stats") as reply:
        return json.load(reply)["calls"]


async def until(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


def rewritten(root):
    found = query(
        Root(root),
        "SELECT count(*) AS rows, count(DISTINCT unit) AS units, "
        "sum(prompt_tokens + completion_tokens) AS tokens FROM rewrites",
    )
    return found.to_pylist()[0]


async def killed_in_the_middle(work, clients, process):
    """The stage, begun; its client; and how many answers it had when its server was dead."""
    stage = RewriteStage()
    client = clients.of(stage)
    running = asyncio.create_task(run_call_stage(work, stage, client, clients.images))
    await until(lambda: client.stats.answers > ROWS / 4)
    process.send_signal(signal.SIGKILL)
    process.wait()
    note = f"waiting for claims at {client.endpoint.base_url}: "
    await until(lambda: work.progress.stages["rewrite"].note.startswith(note))
    await until(lambda: client.stats.in_flight == 0)
    return running, client, client.stats.answers


@pytest.mark.parametrize("transport", ["aiohttp", "openai"])
async def test_a_server_killed_and_started_again_costs_no_row_no_try_and_no_second_payment(
    root, start, port, transport
):
    process = start(port)
    url = f"http://127.0.0.1:{port}/v1"
    work = open_synthetic(root, root / "cache", url, IN_FLIGHT, max_tries=2, transport=transport)
    async with open_clients(work) as clients:
        running, client, answers = await killed_in_the_middle(work, clients, process)
        await asyncio.to_thread(start, port)
        await running
        assert set(client.stats.retries) == {"server died"}
        assert client.stats.retries["server died"] == client.stats.sent - ROWS
        spent = clients.cache.spent(work.root.id)[1]
    done = work.progress.stages["rewrite"]
    assert (done.state, done.done, done.failed, done.note) == ("done", ROWS, 0, "")
    assert await asyncio.to_thread(calls_of, port) == ROWS - answers
    assert rewritten(root) == {"rows": ROWS, "units": ROWS, "tokens": spent}


async def test_a_server_that_stays_dead_stops_the_stage_and_all_that_was_done_is_kept(
    root, start, port
):
    process = start(port)
    url = f"http://127.0.0.1:{port}/v1"
    work = open_synthetic(root, root / "cache", url, IN_FLIGHT, down_patience_s=1.0)
    async with open_clients(work) as clients:
        running, client, answers = await killed_in_the_middle(work, clients, process)
        with pytest.raises(EndpointDown, match="is dead since ") as stopped:
            await running
        assert client.stats.answers == answers
    assert "VISPREF_CLAIMS__DOWN_PATIENCE_S" in str(stopped.value)
    assert work.progress.stages["rewrite"].note == str(stopped.value)
    assert rewritten(root)["rows"] == answers
    start(port)
    work = open_synthetic(root, root / "cache", url, IN_FLIGHT)
    async with open_clients(work) as clients:
        await run_call_stage(work, RewriteStage(), clients.of(RewriteStage()), clients.images)
    assert calls_of(port) == ROWS - answers
    assert rewritten(root)["rows"] == ROWS


async def test_what_is_in_the_cache_needs_no_server(root, server):
    for url in (server.base_url, "http://127.0.0.1:9/v1"):
        shutil.rmtree(root / "tables" / "rewrites", ignore_errors=True)
        work = open_synthetic(root, root / "cache", url, IN_FLIGHT)
        async with open_clients(work) as clients:
            client = clients.of(RewriteStage())
            await run_call_stage(work, RewriteStage(), client, clients.images)
        assert rewritten(root)["rows"] == ROWS
    assert client.stats.sent == 0


async def test_a_model_that_is_not_served_stops_the_stage_before_any_call(root, server):
    work = open_synthetic(root, root / "cache", server.base_url, IN_FLIGHT)
    rewrite = work.recipe.rewrite.model_copy(update={"model": "gpt-9"})
    recipe = work.recipe.model_copy(update={"rewrite": rewrite})
    work.chain = replace(work.chain, recipe=recipe)
    async with open_clients(work) as clients:
        client = clients.of(RewriteStage())
        with pytest.raises(ModelNotServed, match="stand-in-claims"):
            await run_call_stage(work, RewriteStage(), client, clients.images)
    assert server.stats()["calls"] == 0
    assert work.progress.stages["rewrite"].state == "stopped"
