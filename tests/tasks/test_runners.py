"""A real Ray and a real Dask cluster on loopback: the same tables as without, kills included."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from config.errors import RecipeError
from config.settings import Settings
from sources.spec import InputSpec
from stages import chain, ingest, mine, scan
from stages.embed import embed
from stages.run import open_work, record_end, record_start
from storage import parts
from storage.root import Root
from tasks import runners
from tasks.batches import whole_stage
from tasks.runners import computing

THRESHOLDS = {"strategy": "blind", "clip_min": 0.998, "dino_max": 0.9975}
STRATEGIES = {"nearest": {}, "blind": THRESHOLDS}
TABLES = ("embeddings", "scans", "pairs", "neighbours", "blind_pairs", "failures")
DIFFER = ("run_id", "failed_at")  # of one run from another's
PATIENCE_S = 120
HOST = "127.0.0.1"


@pytest.fixture(scope="module", autouse=True)
def prefect_server():
    from prefect.testing.utilities import prefect_test_harness

    with prefect_test_harness(server_startup_timeout=120):
        yield


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    from miniature.scenes import write_world

    folder = tmp_path_factory.mktemp("scenes")
    write_world(folder, 60, seed=3)
    return InputSpec(location=str(folder / "prompts.jsonl"))


@pytest.fixture(scope="module", autouse=True)
def ray_token():
    """Ray's own protection of a cluster, with a token of these tests; set before Ray is imported."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_MODE", "token")
        patch.setenv("RAY_AUTH_TOKEN", uuid.uuid4().hex)
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")  # on loopback alone
        yield


@pytest.fixture(scope="module")
def ray_address(tmp_path_factory):
    """A Ray cluster of two workers, in processes of its own."""
    with socket.socket() as free:
        free.bind((HOST, 0))
        port = free.getsockname()[1]
    # Ray's sockets lie in it, and their paths must be short.
    temporary = tmp_path_factory.getbasetemp().parent / "ray"
    process = subprocess.Popen(
        [str(Path(sys.executable).with_name("ray")), "start", "--head", "--block",
         f"--node-ip-address={HOST}", f"--port={port}", "--num-cpus=2", "--num-gpus=0",
         "--include-dashboard=false", "--disable-usage-stats", f"--temp-dir={temporary}"],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    try:
        assert any("block forever" in line for line in process.stdout), "ray has ended"
        yield f"{HOST}:{port}", process.pid
    finally:
        process.terminate()
        process.communicate(timeout=60)


@pytest.fixture(scope="module")
def dask_cluster():
    """A Dask cluster of two worker processes."""
    from distributed import LocalCluster

    with LocalCluster(
        n_workers=2, threads_per_worker=1, host="127.0.0.1", dashboard_address="127.0.0.1:0"
    ) as cluster:
        yield cluster


def built(root, scenes, recipe, settings):
    """Ingest to mining as the flow does them; one stored image is damaged. Gives the tables."""
    from prefect import flow

    work = open_work(Root(root), recipe, settings)

    @flow(name="to-mining", persist_result=False)
    async def stages():
        record_start(work, None)
        await whole_stage(chain.INGEST, lambda: ingest.ingest(work, scenes))
        damaged = sorted(work.root.walk("images"))[0]
        work.root.write_bytes(damaged, b"no image")
        async with computing(settings) as compute:
            await whole_stage(chain.EMBED_CLIP, lambda: embed(work, chain.EMBED_CLIP, compute))
            await whole_stage(chain.SCAN, lambda: scan.scan(work, compute))
            await whole_stage(chain.EMBED_DINO, lambda: embed(work, chain.EMBED_DINO, compute))
        await whole_stage(chain.MINE, lambda: mine.mine(work))
        record_end(work, "completed")

    asyncio.run(stages())
    return tables_of(work)


def tables_of(work):
    found = {}
    for table in TABLES:
        rows = []
        for recipe in parts.recipes(work.root, table):
            for part in parts.read_parts(work.root, table, recipe):
                kept = [name for name in part.column_names if name not in DIFFER]
                rows += [(recipe, row) for row in part.select(kept).to_pylist()]
        found[table] = sorted(rows, key=repr)
    recipe = work.chain.of(chain.SCAN)
    counts = work.root.list(f"tables/pairs/{recipe}/counts", ".json")
    return {**found, "counts": [work.root.read_json(path) for path in counts]}


@pytest.fixture
def make(scenes, make_recipe, tmp_path):
    """make(strategy, **runner) -> the tables; small batches and blocks where there is a runner."""

    def run(strategy, **runner):
        small = {"batch_rows": 8, "mine_block": 16, "embedding": {"batch_size": 4}}
        settings = Settings(
            cache_dir=tmp_path / "cache", runner=runner, **(small if runner else {})
        )
        root = tmp_path / (runner.get("kind") or "local")
        return built(root, scenes, make_recipe(mine=STRATEGIES[strategy]), settings)

    return run


def check_rows(tables, strategy):
    """Something was made, and one image failed."""
    assert 59 <= len(tables["embeddings"]) <= 2 * 59  # DINOv2 of those in a pair
    assert len(tables["failures"]) == 1
    assert tables["pairs" if strategy == "blind" else "scans"]
    assert any(row["neighbour"] for _, row in tables["neighbours"])


class Killer(threading.Thread):
    """Kills, once, the first process that `busy` names."""

    def __init__(self, busy):
        super().__init__(daemon=True)
        self._busy = busy
        self.killed = None

    def run(self):
        deadline = time.monotonic() + PATIENCE_S
        while self.killed is None and time.monotonic() < deadline:
            pid = self._busy()
            if pid is not None:
                os.kill(pid, signal.SIGKILL)
                self.killed = pid
            time.sleep(0.02)


def task_runs():
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        return client.read_task_runs(limit=200)


@pytest.mark.slow  # Ray's workers import torch anew
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_ray_makes_the_same_tables_even_where_a_worker_is_killed(make, ray_address, strategy):
    local = make(strategy)
    check_rows(local, strategy)
    address, head = ray_address

    def busy():
        for child in psutil.Process(head).children(recursive=True):
            try:
                if "ray::answered" in " ".join(child.cmdline()):
                    return child.pid
            except psutil.NoSuchProcess:
                continue
        return None

    killer = Killer(busy)
    killer.start()
    assert make(strategy, kind="ray", address=address) == local
    killer.join()
    assert killer.killed
    jobs = [run for run in task_runs() if run.name.startswith("embed_clip ")]
    assert {run.state_type.value for run in jobs} == {"COMPLETED"}
    assert max(run.run_count for run in jobs) == 2  # the killed one was tried again


@pytest.mark.slow  # Dask's workers import torch anew
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_dask_makes_the_same_tables_even_where_a_worker_is_killed(make, dask_cluster, strategy):
    local = make(strategy)

    def busy():
        for worker in list(dask_cluster.scheduler.workers.values()):
            if worker.processing:
                return next(n.pid for n in dask_cluster.workers.values() if n.name == worker.name)
        return None

    killer = Killer(busy)
    killer.start()
    assert make(strategy, kind="dask", address=dask_cluster.scheduler_address) == local
    killer.join()
    assert killer.killed


@pytest.mark.slow  # a cluster of its own
@pytest.mark.parametrize("kind", ["ray", "dask"])
def test_without_an_address_a_cluster_of_this_machine_is_started_and_ended(make, kind):
    before = {child.pid for child in psutil.Process().children(recursive=True)}
    assert make("nearest", kind=kind) == make("nearest")
    deadline = time.monotonic() + PATIENCE_S
    while left := {
        child.pid
        for child in psutil.Process().children(recursive=True)
        if child.pid not in before and "resource_tracker" not in " ".join(child.cmdline())
    }:
        assert time.monotonic() < deadline, left
        time.sleep(0.1)


@pytest.mark.slow  # a cluster of its own
def test_dask_on_this_machine_has_a_worker_for_each_gpu_that_may_be_used(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,3")
    with runners.cluster_of(Settings(runner={"kind": "dask"})) as cluster:
        assert cluster.slots() == 2
        with ThreadPoolExecutor() as pool:  # at once: each worker has one thread
            asked = ['"CUDA_VISIBLE_DEVICES"'] * 20
            answers = pool.map(lambda text: cluster.call(os.getenv, text), asked)
            assert {json.loads(answer)["receipt"] for answer in answers} == {"2", "3"}
    cpu = Settings(runner={"kind": "dask"}, embedding={"device": "cpu"})
    with runners.cluster_of(cpu) as cluster:
        assert cluster.slots() == os.cpu_count()


LISTENING = """
import json, psutil, sys
from config.settings import Settings
from tasks.runners import cluster_of

def main():
    with cluster_of(Settings(runner={"kind": sys.argv[1]})):
        found = set()
        for process in [psutil.Process(), *psutil.Process().children(recursive=True)]:
            for connection in process.net_connections(kind="inet"):
                if connection.status == "LISTEN":
                    found.add(connection.laddr.ip)
        print("LISTENING", json.dumps(sorted(found)))

if __name__ == "__main__":
    main()
"""


@pytest.mark.slow  # a cluster of its own
@pytest.mark.parametrize("kind", ["ray", "dask"])
def test_a_cluster_of_this_machine_listens_on_loopback_alone(kind, tmp_path, monkeypatch):
    monkeypatch.delenv("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER")
    program = tmp_path / "listening.py"
    program.write_text(LISTENING)
    found = subprocess.run(
        [sys.executable, str(program), kind],
        capture_output=True,
        text=True,
        timeout=200,
        check=True,
    )
    [told] = [line for line in found.stdout.splitlines() if line.startswith("LISTENING ")]
    addresses = json.loads(told.removeprefix("LISTENING "))
    assert addresses
    assert {address.removeprefix("::ffff:") for address in addresses} == {HOST}


class Threads:
    """A cluster of this process's threads."""

    def __init__(self, faults=()):
        self.faults = list(faults)
        self.dropped = 0

    def slots(self):
        return 1

    def call(self, do, text):
        if self.faults:
            raise self.faults.pop()
        return runners.answered(do, text)

    def drop(self):
        self.dropped += 1


def double(job):
    if "refuse" in job:
        raise RecipeError(job["refuse"])
    return {"twice": 2 * job["number"]}


def in_a_flow(read):
    from prefect import flow

    return flow(read, name="jobs", persist_result=False)()


def test_a_job_that_is_lost_is_tried_again(monkeypatch):
    monkeypatch.setattr(runners, "RETRY_DELAY_S", [0, 0])
    cluster = Threads([ConnectionError("the worker died")])
    jobs = [{"number": n} for n in range(5)]
    found = in_a_flow(lambda: list(runners.as_tasks("test", cluster, jobs, double)))
    assert sorted(receipt["twice"] for receipt in found) == [0, 2, 4, 6, 8]


def test_an_error_on_purpose_is_not_tried_again_and_the_rest_is_dropped():
    cluster = Threads()
    calls = []

    def jobs():
        for number in range(100):
            calls.append(number)
            yield {"number": number, "refuse": "other weights"}

    with pytest.raises(RecipeError, match="other weights"):
        in_a_flow(lambda: list(runners.as_tasks("test", cluster, jobs(), double)))
    assert len(calls) <= 3  # no more were begun than keep it busy
    assert cluster.dropped == 1


def test_a_missing_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.setitem(sys.modules, "distributed", None)
    for kind in ("ray", "dask"):
        settings = Settings(runner={"kind": kind})
        with pytest.raises(RecipeError, match=f"extra `{kind}`"), runners.cluster_of(settings):
            pass


def test_nothing_pending_reaches_for_no_cluster(monkeypatch):
    monkeypatch.setattr(runners, "cluster_of", None)

    async def nothing():
        async with computing(Settings(runner={"kind": "ray"})) as compute:
            return list(compute("scan", []))

    assert asyncio.run(nothing()) == []


def test_local_imports_neither(tmp_path):
    code = (
        "import sys, flows.building, flows.train; "
        "print([m for m in ('ray', 'distributed') if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(found.stdout.replace("'", '"')) == []


@pytest.mark.parametrize("kind", ["ray", "dask"])
def test_a_cluster_that_does_not_answer_is_named(kind, monkeypatch):
    import distributed
    import ray

    def nobody(*_, **__):
        raise OSError("nobody answers")

    monkeypatch.setattr(ray, "init", nobody)
    monkeypatch.setattr(distributed, "Client", nobody)
    settings = Settings(runner={"kind": kind, "address": "127.0.0.1:9"})
    with (
        pytest.raises(RecipeError, match=r"no \w+ cluster at 127.0.0.1:9"),
        runners.cluster_of(settings),
    ):
        pass
