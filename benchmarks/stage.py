"""The rewrite stage whole (pending query, cache, accounting, parsing, Parquet) beside raw aiohttp.

    python -m benchmarks.stage --rows 5000 --in-flight 32 100 500
    python -m benchmarks.stage --memory 10000 100000

Every arm runs in a process of its own, one after the other, against the same server. CPU and
memory are those of the client process. Prints Markdown tables.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ARMS = ("raw aiohttp", "vispref", "vispref, openai transport", "vispref in Prefect")


def usage() -> tuple[float, float]:
    found = resource.getrusage(resource.RUSAGE_SELF)
    return found.ru_utime + found.ru_stime, found.ru_maxrss / 1024


async def raw_aiohttp(base_url: str, rows: int, in_flight: int) -> None:
    import aiohttp

    from benchmarks.mock_server import TEXT

    body = json.dumps(
        {"model": "mock", "messages": [{"role": "user", "content": TEXT * 12}], "max_tokens": 100}
    ).encode()
    numbers = iter(range(rows))
    connector = aiohttp.TCPConnector(limit=in_flight)
    async with aiohttp.ClientSession(connector=connector) as session:

        async def worker() -> None:
            for _ in numbers:
                async with session.post(
                    f"{base_url}/chat/completions",
                    data=body,
                    headers={"Content-Type": "application/json"},
                ) as reply:
                    json.loads(await reply.read())

        await asyncio.gather(*(worker() for _ in range(in_flight)))


async def whole_stage(work: Any, wrap: Any) -> dict[str, Any]:
    from stages.calls import run_call_stage
    from stages.rewrite import RewriteStage
    from stages.run import open_clients

    stage = RewriteStage()
    async with open_clients(work) as clients:
        if wrap is None:
            await run_call_stage(work, stage, clients.of(stage), clients.images)
        else:
            await run_call_stage(work, stage, clients.of(stage), clients.images, wrap=wrap)
    return work.progress.stages["rewrite"].as_dict()


def run_arm(arm: str, root: Path, base_url: str, rows: int, in_flight: int) -> dict[str, Any]:
    """In the arm's own process: times the work, imports and set-up left out."""
    if arm == "raw aiohttp":
        began, cpu = time.perf_counter(), usage()[0]
        asyncio.run(raw_aiohttp(base_url, rows, in_flight))
        done: dict[str, Any] = {"done": rows, "calls": rows}
    else:
        from benchmarks.synthetic import open_synthetic

        transport = "openai" if "openai" in arm else "aiohttp"
        work = open_synthetic(root, root / "cache", base_url, in_flight, transport=transport)
        if arm.endswith("Prefect"):
            return _in_prefect(work)
        import stages.calls
        import stages.run  # noqa: F401 - imported before the clock starts

        began, cpu = time.perf_counter(), usage()[0]
        done = asyncio.run(whole_stage(work, None))
    seconds = time.perf_counter() - began
    spent, peak = usage()
    return {"seconds": seconds, "cpu": spent - cpu, "peak_mb": peak, **done}


def _in_prefect(work: Any) -> dict[str, Any]:
    """The stage as a flow's tasks. The clock runs inside the flow: a server's start is no overhead."""
    from prefect import flow

    import stages.run  # noqa: F401 - imported before the clock starts, as in the other arms
    from tasks.batches import call_batches

    @flow(persist_result=False)
    async def stage_flow() -> dict[str, Any]:
        began, cpu = time.perf_counter(), usage()[0]
        done = await whole_stage(work, call_batches("rewrite"))
        spent, peak = usage()
        seconds = time.perf_counter() - began
        return {"seconds": seconds, "cpu": spent - cpu, "peak_mb": peak, **done}

    return asyncio.run(stage_flow())


@contextmanager
def mock_server(latency_ms: float, processes: int, failing: float = 0.0) -> Iterator[str]:
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.mock_server", "--latency-ms", str(latency_ms),
         "--processes", str(processes), "--failing", str(failing)],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        yield process.stdout.readline().strip()
    finally:
        process.terminate()
        process.wait()


def in_own_process(
    arm: str, root: Path, base_url: str, rows: int, in_flight: int
) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.stage", "--arm", arm, "--root", str(root),
               "--base-url", base_url, "--rows", str(rows), "--in-flight", str(in_flight)]  # fmt: skip
    found = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    result: dict[str, Any] = json.loads(found.stdout.splitlines()[-1])
    return result


def fresh_root(folder: Path, rows: int) -> Path:
    from benchmarks.synthetic import make_root

    made = folder / f"made-{rows}"
    if not made.exists():
        make_root(made, rows)
    copy = folder / "root"
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(made, copy)
    return copy


def throughput(folder: Path, rows: int, in_flights: list[int], failing: float) -> None:
    print("| in flight | arm | rows/s | of raw aiohttp | CPU ms a row | peak MB |")
    print("|---|---|---|---|---|---|")
    for in_flight in in_flights:
        raw = 0.0
        with mock_server(100, 2, failing) as base_url:
            for arm in ARMS:
                if failing and arm == "raw aiohttp":
                    continue
                root = fresh_root(folder, rows)
                found = in_own_process(arm, root, base_url, rows, in_flight)
                rate = found["done"] / found["seconds"]
                raw = raw or rate
                print(
                    f"| {in_flight} | {arm} | {rate:,.0f} | {rate / raw:.2f} | "
                    f"{1000 * found['cpu'] / rows:.2f} | {found['peak_mb']:.0f} |",
                    flush=True,
                )
                if arm == "vispref":
                    _warm(root, base_url, rows, in_flight)


def _warm(root: Path, base_url: str, rows: int, in_flight: int) -> None:
    """The same run again, and once more with the stage's table gone: all from the cache."""
    again = in_own_process("vispref", root, base_url, rows, in_flight)
    shutil.rmtree(root / "tables" / "rewrites")
    replay = in_own_process("vispref", root, base_url, rows, in_flight)
    assert again["calls"] == replay["calls"] == 0
    print(
        f"| {in_flight} | run again, nothing pending | {rows / again['seconds']:,.0f} | | "
        f"{1000 * again['cpu'] / rows:.3f} | {again['peak_mb']:.0f} |\n"
        f"| {in_flight} | table lost, all answers cached | {rows / replay['seconds']:,.0f} | | "
        f"{1000 * replay['cpu'] / rows:.3f} | {replay['peak_mb']:.0f} |",
        flush=True,
    )


def memory(folder: Path, sizes: list[int]) -> None:
    print("| rows | peak MB | rows/s | CPU ms a row |\n|---|---|---|---|")
    for rows in sizes:
        with mock_server(0, 2) as base_url:
            found = in_own_process("vispref", fresh_root(folder, rows), base_url, rows, 100)
        rate = found["done"] / found["seconds"]
        cpu = 1000 * found["cpu"] / rows
        print(f"| {rows:,} | {found['peak_mb']:.0f} | {rate:,.0f} | {cpu:.2f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=5000)
    parser.add_argument("--in-flight", type=int, nargs="+", default=[32, 100, 500])
    parser.add_argument("--failing", type=float, default=0.0)
    parser.add_argument("--memory", type=int, nargs="+")
    parser.add_argument("--arm")
    parser.add_argument("--root", type=Path)
    parser.add_argument("--base-url")
    options = parser.parse_args()
    if options.arm:
        found = run_arm(
            options.arm, options.root, options.base_url, options.rows, options.in_flight[0]
        )
        print(json.dumps(found))
        return
    with tempfile.TemporaryDirectory(prefix="vispref-benchmark-") as folder:
        if options.memory:
            memory(Path(folder), options.memory)
        else:
            throughput(Path(folder), options.rows, options.in_flight, options.failing)


if __name__ == "__main__":
    main()
