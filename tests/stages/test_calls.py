"""One calling stage of 2,000 rows: killed, faulted, and run twice at once. Real processes."""

import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from benchmarks.synthetic import make_root, open_synthetic
from miniature.server import StandInServer
from stages.calls import run_call_stage
from stages.rewrite import RewriteStage
from stages.run import open_clients
from storage.catalog import query
from storage.root import Root

ROWS = 2000
IN_FLIGHT = 50

# The stage alone, as a process that can be killed.
RUN = """
import asyncio, sys
from pathlib import Path
from benchmarks.synthetic import open_synthetic
from stages.calls import run_call_stage
from stages.rewrite import RewriteStage
from stages.run import open_clients
from storage.lock import hold

root, cache, url, in_flight, run_id = sys.argv[1:]
# Of 2,000 rows whose every call fails at 30 %, one in eight runs has a row that fails eight times.
work = open_synthetic(Path(root), Path(cache), url, int(in_flight), max_tries=30)
work.run_id = run_id

async def main():
    async with open_clients(work) as clients:
        await run_call_stage(work, RewriteStage(), clients.of(RewriteStage()), clients.images)

with hold(work.root, run_id, wait=True, say=lambda text: print(text, flush=True)):
    print("running", flush=True)
    asyncio.run(main())
print("rows", work.progress.stages["rewrite"].done, flush=True)
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    root = tmp_path_factory.mktemp("made") / "root"
    make_root(root, ROWS)
    return root


@pytest.fixture
def root(made, tmp_path):
    """A copy whose parts are shared with the original: no test changes a part."""
    copy = tmp_path / "root"
    subprocess.run(["cp", "-r", str(made), str(copy)], check=True)
    return copy


@pytest.fixture
def mock():
    """The stand-in's claim role under the name that the synthetic recipe asks for."""
    with StandInServer(latency_ms=20) as server:
        yield server


def start(root, url, run_id="run", in_flight=IN_FLIGHT):
    command = [
        sys.executable,
        "-c",
        RUN,
        str(root),
        str(root / "cache"),
        url,
        str(in_flight),
        run_id,
    ]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]
    )


def rewrites(root):
    return query(
        Root(root), "SELECT key, unit, chosen, rejected FROM rewrites ORDER BY key"
    ).to_pylist()


def wait_for_calls(server, calls):
    reached = threading.Event()

    def poll():
        while server.stats()["calls"] < calls:
            reached.wait(0.005)
        reached.set()

    poller = threading.Thread(target=poll, daemon=True)
    poller.start()
    assert reached.wait(120)


@pytest.fixture(scope="module")
def undisturbed(made, tmp_path_factory):
    copy = tmp_path_factory.mktemp("undisturbed") / "root"
    subprocess.run(["cp", "-r", str(made), str(copy)], check=True)
    with StandInServer() as server:
        process = start(copy, server.base_url)
        assert process.communicate(timeout=120)[0].endswith(f"rows {ROWS}\n")
    return rewrites(copy)


@pytest.mark.parametrize("share", [0.25, 0.5, 0.9])
def test_a_kill_costs_at_most_the_calls_in_flight(root, mock, undisturbed, share):
    process = start(root, mock.base_url)
    wait_for_calls(mock, share * ROWS)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert start(root, mock.base_url).wait(120) == 0
    assert ROWS <= mock.stats()["calls"] <= ROWS + IN_FLIGHT
    assert rewrites(root) == undisturbed
    hidden = [path for path in root.rglob("tables/**/.*") if path.is_file()]
    assert len(hidden) <= 1  # the part that was being written when the process was killed


@pytest.mark.parametrize("share", [0.1, 0.3])
def test_failing_calls_lose_no_row_and_double_none(root, mock, undisturbed, share):
    mock.set_faults([f"http_500={share}"])
    process = start(root, mock.base_url)
    assert process.wait(200) == 0
    assert rewrites(root) == undisturbed
    assert query(Root(root), "SELECT * FROM failures").num_rows == 0


def test_of_two_runs_at_once_the_second_waits_and_finds_nothing_to_do(root, mock, undisturbed):
    first = start(root, mock.base_url, "first")
    assert first.stdout.readline() == "running\n"
    wait_for_calls(mock, 100)
    second = start(root, mock.base_url, "second")
    told = second.stdout.readline()
    assert "is being written by run first" in told
    assert "waiting" in told
    assert first.communicate(timeout=120)[0] == f"rows {ROWS}\n"
    assert second.communicate(timeout=120)[0] == "running\nrows 0\n"
    assert mock.stats()["calls"] == ROWS
    assert rewrites(root) == undisturbed


async def test_a_server_that_dies_stops_the_stage_and_loses_nothing(root, undisturbed):
    from config.errors import EndpointDown

    stage = RewriteStage()
    with StandInServer(latency_ms=20) as server:
        work = open_synthetic(root, root / "cache", server.base_url, IN_FLIGHT, down_patience_s=0.5)
        killer = threading.Thread(
            target=lambda: (wait_for_calls(server, 500), server.stop()), daemon=True
        )
        killer.start()
        with pytest.raises(EndpointDown, match="Nothing done is lost"):
            async with open_clients(work) as clients:
                await run_call_stage(work, stage, clients.of(stage), clients.images)
        killer.join()
        served = server.stats()["calls"]
    done = work.progress.stages["rewrite"].done
    assert done >= 400
    with StandInServer() as server:
        work = open_synthetic(root, root / "cache", server.base_url, IN_FLIGHT)
        async with open_clients(work) as clients:
            await run_call_stage(work, stage, clients.of(stage), clients.images)
        assert ROWS - served <= server.stats()["calls"] <= ROWS - served + IN_FLIGHT
    assert rewrites(root) == undisturbed


def test_a_very_large_stage_is_done_shard_by_shard(root, mock, monkeypatch, tmp_path):
    import asyncio

    from stages import calls, pending

    for module in (calls, pending):
        monkeypatch.setattr(module, "CHUNK_ROWS", 400)
    work = open_synthetic(root, tmp_path / "cache", mock.base_url, IN_FLIGHT)
    work.settings = work.settings.model_copy(update={"shard_rows": 900})
    seen = []

    async def shards(number, of, part):
        before = work.progress.stages["rewrite"].done
        await part()
        seen.append((number, of, work.progress.stages["rewrite"].done - before))

    async def main():
        async with open_clients(work) as clients:
            stage = RewriteStage()
            await run_call_stage(work, stage, clients.of(stage), clients.images, shards=shards)

    asyncio.run(main())
    assert seen == [(1, 3, 800), (2, 3, 800), (3, 3, 400)]  # whole chunks, in turn
    assert mock.stats()["calls"] == ROWS
