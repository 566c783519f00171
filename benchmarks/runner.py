"""Times embedding and the scan here and on a runner of this machine; prints a Markdown table.

    python benchmarks/runner.py --images 3000 --runners local ray dask

The miniature world's encoders over drawn scenes, all pending; start-up of the cluster and its
workers' imports are counted. An arm is a process of its own.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from prefect import flow

from config.recipe import load_recipe
from config.settings import Settings
from miniature.scenes import write_world
from sources.spec import InputSpec
from stages import chain, ingest, scan
from stages.embed import embed
from stages.run import open_work, record_start
from storage.root import Root
from tasks.batches import whole_stage
from tasks.runners import computing

WEIGHTS = Path(__file__).resolve().parents[1] / "miniature" / "weights"


def run_arm(kind: str, world: Path, block: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        models = {
            "embed.clip_model": str(WEIGHTS / "clip"),
            "embed.dino_model": str(WEIGHTS / "dino"),
        }
        settings = Settings(
            cache_dir=Path(folder) / "cache", runner={"kind": kind}, mine_block=block
        )
        work = open_work(Root(f"{folder}/set"), load_recipe("symmpo", models), settings)
        seconds: dict[str, float] = {}

        @flow(persist_result=False)
        async def arm() -> None:
            record_start(work, None)
            ingest.ingest(work, InputSpec(location=str(world / "prompts.jsonl")))
            began = time.perf_counter()
            async with computing(settings) as compute:
                for stage, call in (
                    (chain.EMBED_CLIP, lambda: embed(work, chain.EMBED_CLIP, compute)),
                    (chain.SCAN, lambda: scan.scan(work, compute)),
                    (chain.EMBED_DINO, lambda: embed(work, chain.EMBED_DINO, compute)),
                ):
                    await whole_stage(stage, call)
                    seconds[stage] = time.perf_counter() - began - sum(seconds.values())
            seconds["all"] = time.perf_counter() - began

        asyncio.run(arm())
        return seconds


def in_own_process(kind: str, world: Path, block: int) -> dict[str, Any]:
    command = [sys.executable, __file__, "--arm", kind, "--world", str(world)]
    found = subprocess.run(
        [*command, "--block", str(block)], capture_output=True, text=True, check=True
    )
    made: dict[str, Any] = json.loads(found.stdout.splitlines()[-1])
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=3000)
    parser.add_argument("--block", type=int, default=512, help="images a shard of the scan")
    parser.add_argument("--runners", nargs="+", default=["local", "ray", "dask"])
    parser.add_argument("--arm", help=argparse.SUPPRESS)
    parser.add_argument("--world", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.arm:
        print(json.dumps(run_arm(given.arm, given.world, given.block)))
        return
    stages = (chain.EMBED_CLIP, chain.SCAN, chain.EMBED_DINO, "all")
    print(f"{given.images} scenes, load {os.getloadavg()[0]:.1f}\n")
    print("| runner | " + " | ".join(f"{stage} s" for stage in stages) + " |")
    print("|---|" + "---|" * len(stages))
    with tempfile.TemporaryDirectory() as folder:
        world = Path(folder)
        write_world(world, given.images, seed=5)
        for kind in given.runners:
            made = in_own_process(kind, world, given.block)
            print(f"| {kind} | " + " | ".join(f"{made[s]:.1f}" for s in stages) + " |", flush=True)


if __name__ == "__main__":
    main()
