"""What is timed: one arm of a benchmark, in a process of its own.

An arm is raw aiohttp, or the rewrite stage whole: pending query, prompt, cache commit, parsing,
validation, accounting, Parquet. The server under test runs beside it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.usage import cpu_s, peak_mb

RAW, OURS, OPENAI, PREFECT = (
    "raw aiohttp",
    "vispref",
    "vispref, openai transport",
    "vispref in Prefect",
)
ARMS = (RAW, OURS, OPENAI, PREFECT)


async def raw_aiohttp(base_url: str, rows: int, in_flight: int) -> None:
    """As many calls with nothing around them: what a client can reach at best."""
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
    """The rewrite stage of `work`; `wrap` as in `run_call_stage`. Gives its progress."""
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
    """Times one arm's work in this process, imports and set-up left out.

    Gives `seconds`, `cpu` (seconds), `peak_mb` and what the stage counted (`done`, `calls`, ...).
    """
    if arm == RAW:
        began, cpu = time.perf_counter(), cpu_s()
        asyncio.run(raw_aiohttp(base_url, rows, in_flight))
        done: dict[str, Any] = {"done": rows, "calls": rows}
    else:
        from benchmarks.synthetic import open_synthetic

        transport = "openai" if arm == OPENAI else "aiohttp"
        work = open_synthetic(root, root / "cache", base_url, in_flight, transport=transport)
        if arm == PREFECT:
            return in_prefect(work)
        import stages.calls
        import stages.run  # noqa: F401 - imported before the clock starts

        began, cpu = time.perf_counter(), cpu_s()
        done = asyncio.run(whole_stage(work, None))
    seconds = time.perf_counter() - began
    return {"seconds": seconds, "cpu": cpu_s() - cpu, "peak_mb": peak_mb(), **done}


def in_prefect(work: Any) -> dict[str, Any]:
    """The stage as a flow's tasks. The clock runs inside the flow: a server's start is no overhead."""
    from cli.running import quiet_prefect

    quiet_prefect()
    from prefect import flow

    import stages.run  # noqa: F401 - imported before the clock starts, as in the other arms
    from tasks.batches import call_batches

    @flow(persist_result=False)
    async def stage_flow() -> dict[str, Any]:
        began, cpu = time.perf_counter(), cpu_s()
        done = await whole_stage(work, call_batches("rewrite"))
        seconds = time.perf_counter() - began
        return {"seconds": seconds, "cpu": cpu_s() - cpu, "peak_mb": peak_mb(), **done}

    return asyncio.run(stage_flow())


@contextmanager
def mock_server(latency_ms: float, processes: int, failing: float = 0.0) -> Iterator[str]:
    """The stand-in server in processes of its own; gives its base URL."""
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
    """`run_arm` in a new process. Prefect keeps its database beside the root, not in a home."""
    command = [sys.executable, "-m", "benchmarks.arms", "--arm", arm, "--root", str(root),
               "--base-url", base_url, "--rows", str(rows), "--in-flight", str(in_flight)]  # fmt: skip
    environment = {**os.environ, "PREFECT_HOME": str(root.parent / "prefect")}
    found = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment)
    result: dict[str, Any] = json.loads(found.stdout.splitlines()[-1])
    return result


def fresh_root(folder: Path, rows: int) -> Path:
    """A root of so many rows with nothing of the rewrite stage done; made once a size."""
    from benchmarks.synthetic import make_root

    made = folder / f"made-{rows}"
    if not made.exists():
        make_root(made, rows)
    copy = folder / "root"
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(made, copy)
    return copy


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--arm", choices=ARMS, required=True)
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--base-url", required=True)
    parser.add_argument("--rows", type=int, required=True)
    parser.add_argument("--in-flight", type=int, required=True)
    given = parser.parse_args()
    print(json.dumps(run_arm(given.arm, given.root, given.base_url, given.rows, given.in_flight)))


if __name__ == "__main__":
    main()
