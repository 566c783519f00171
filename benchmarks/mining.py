"""Times mining against the plain matrix product it cannot do without; prints a Markdown table.

    python benchmarks/mining.py --n 10000 50000 200000

Every arm runs in a process of its own, so its peak memory is its own. (The vectors are a memory
map, whose pages count as resident once they were read: float16 N x D, 293 MiB for 200,000 x 768.)
Arms:

    half       the upper triangle of the product, block by block, nothing looked at
    full       the whole product, block by block, nothing looked at
    blind      `pairs_above` with counts at the neighbouring thresholds
    faiss      IndexFlatIP alone: building it, and the top 16 of every row
    nearest    `nearest` for every row

Ratios are to `full`. The product of N rows is 2 N^2 D operations: 61 TFLOP for 200,000 x 768.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.usage import peak_mb
from curation.blind import pairs_above
from curation.cosines import EdgeCounts
from curation.nearest import TOP_K, flat_index, nearest
from models.product import block_product

CLIP_MIN, CEILING = 0.95, 0.999
SPREADS = (0.15, 0.22, 0.3)  # cosines of about .98, .95 and .92 inside a cluster


def clustered(n: int, dimension: int) -> Any:
    """Float16 unit rows: clusters of about eight, and cosines of about .5 between clusters."""
    drawn = np.random.default_rng(0)
    common = unit(drawn.standard_normal((1, dimension), dtype=np.float32))
    centres = unit(drawn.standard_normal((max(1, n // 8), dimension), dtype=np.float32))
    rows = np.empty((n, dimension), np.float16)
    for start in range(0, n, 4096):
        m = min(4096, n - start)
        base = unit(common + centres[drawn.integers(0, len(centres), m)])
        noise = unit(drawn.standard_normal((m, dimension), dtype=np.float32))
        rows[start : start + m] = unit(base + noise * drawn.choice(SPREADS, (m, 1)))
    return rows


def unit(rows: Any) -> Any:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def plain_product(vectors: Any, block: int, device: str, *, half: bool) -> None:
    """The product in the same blocks and with the same library as `pairs_above`."""
    multiply = plain_on_cpu if device == "cpu" else plain_on_device
    starts = range(0, len(vectors), block)
    for r in starts:
        rows = vectors[r : r + block]
        multiply(rows, (vectors[c : c + block] for c in starts if not half or c >= r), device)


def plain_on_cpu(rows: Any, blocks: Iterator[Any], device: str) -> None:
    out = np.empty((len(rows), len(rows)), np.float32)
    wide = rows.astype(np.float32)
    for cols in blocks:
        if len(cols) > out.shape[1]:
            out = np.empty((len(rows), len(cols)), np.float32)
        np.matmul(wide, cols.astype(np.float32).T, out=out[:, : len(cols)])


def plain_on_device(rows: Any, blocks: Iterator[Any], device: str) -> None:
    import torch

    wide = torch.from_numpy(np.array(rows)).to(device).float()
    for cols in blocks:
        wide @ torch.from_numpy(np.array(cols)).to(device).float().T
    torch.cuda.synchronize()


def blind_arm(vectors: Any, block: int, device: str) -> dict[str, Any]:
    counts = EdgeCounts.around(CLIP_MIN)
    product = block_product(device)
    parts = pairs_above(vectors, CLIP_MIN, block=block, product=product, counts=counts)
    return {"pairs": sum(len(part) for part in parts), "above .91": int(counts.above[0])}


def faiss_arm(vectors: Any, block: int) -> dict[str, Any]:
    search = flat_index(vectors)
    for start in range(0, len(vectors), block):
        search(vectors[start : start + block].astype(np.float32), TOP_K)
    return {}


def nearest_arm(vectors: Any, block: int) -> dict[str, Any]:
    found = nearest(vectors, np.arange(len(vectors)), ceiling=CEILING, block=block)
    return {"found": int((found.neighbour >= 0).sum()), "scanned": found.scanned}


def run_arm(arm: str, path: Path, block: int, device: str) -> dict[str, Any]:
    """Runs one arm in this process: seconds, CPU seconds, peak resident MB and what it found."""
    vectors = np.load(path, mmap_mode="r")
    arms: dict[str, Callable[[], dict[str, Any] | None]] = {
        "half": lambda: plain_product(vectors, block, device, half=True),
        "full": lambda: plain_product(vectors, block, device, half=False),
        "blind": lambda: blind_arm(vectors, block, device),
        "faiss": lambda: faiss_arm(vectors, block),
        "nearest": lambda: nearest_arm(vectors, block),
    }
    wall, cpu = time.perf_counter(), time.process_time()
    found = arms[arm]() or {}
    return {
        "seconds": time.perf_counter() - wall,
        "cpu": time.process_time() - cpu,
        "peak_mb": peak_mb(),
        "found": found,
    }


def in_own_process(arm: str, path: Path, block: int, device: str) -> dict[str, Any]:
    command = [sys.executable, __file__, "--arm", arm, "--vectors", str(path)]
    command += ["--block", str(block), "--device", device]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def report(sizes: list[int], dimension: int, block: int, device: str, arms: list[str]) -> None:
    print(f"D = {dimension}, block = {block}, {device}, {os.cpu_count()} cores, float16 rows\n")
    print("| N | arm | seconds | of full | CPU seconds | peak RSS MB | found |")
    print("|---|---|---|---|---|---|---|")
    for n in sizes:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "vectors.npy"
            np.save(path, clustered(n, dimension))
            # `full` first: the others are told as a share of it.
            full = in_own_process("full", path, block, device)
            for arm in arms:
                got = full if arm == "full" else in_own_process(arm, path, block, device)
                found = ", ".join(f"{value:,} {name}" for name, value in got["found"].items())
                print(
                    f"| {n:,} | {arm} | {got['seconds']:.2f} | "
                    f"{got['seconds'] / full['seconds']:.2f} | {got['cpu']:.1f} | "
                    f"{got['peak_mb']:.0f} | {found} |",
                    flush=True,
                )


def main() -> None:
    parser = argparse.ArgumentParser(description="Times mining against the plain product.")
    every = ["half", "full", "blind", "faiss", "nearest"]
    parser.add_argument("--n", type=int, nargs="+", default=[10_000, 50_000, 200_000])
    parser.add_argument("--dimension", type=int, default=768)
    parser.add_argument("--block", type=int, default=4096)
    parser.add_argument("--device", default="cpu", help="cpu, or cuda for product and blind")
    parser.add_argument("--arms", nargs="+", default=every, choices=every)
    parser.add_argument("--arm", choices=every, help="run this arm here, on --vectors")
    parser.add_argument("--vectors", type=Path)
    given = parser.parse_args()
    if given.arm:
        print(json.dumps(run_arm(given.arm, given.vectors, given.block, given.device)))
    else:
        report(given.n, given.dimension, given.block, given.device, given.arms)


if __name__ == "__main__":
    main()
