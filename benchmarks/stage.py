"""The rewrite stage whole (pending query, cache, accounting, parsing, Parquet) beside raw aiohttp.

    python -m benchmarks.stage --rows 5000 --in-flight 32 100 500
    python -m benchmarks.stage --memory 10000 100000

Every arm runs in a process of its own, one after the other, against the same server. CPU and
memory are those of the client process. Prints Markdown tables.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from pathlib import Path

from benchmarks.arms import ARMS, OURS, fresh_root, in_own_process, mock_server


def throughput(folder: Path, rows: int, in_flights: list[int]) -> None:
    print("| in flight | arm | rows/s | of raw aiohttp | CPU ms a row | peak MB |")
    print("|---|---|---|---|---|---|")
    for in_flight in in_flights:
        raw = 0.0
        with mock_server(100, 2) as base_url:
            for arm in ARMS:
                root = fresh_root(folder, rows)
                found = in_own_process(arm, root, base_url, rows, in_flight)
                rate = found["done"] / found["seconds"]
                raw = raw or rate
                print(
                    f"| {in_flight} | {arm} | {rate:,.0f} | {rate / raw:.2f} | "
                    f"{1000 * found['cpu'] / rows:.2f} | {found['peak_mb']:.0f} |",
                    flush=True,
                )
                if arm == OURS:
                    _warm(root, base_url, rows, in_flight)


def _warm(root: Path, base_url: str, rows: int, in_flight: int) -> None:
    """The same run again, and once more with the stage's table gone: all from the cache."""
    again = in_own_process(OURS, root, base_url, rows, in_flight)
    shutil.rmtree(root / "tables" / "rewrites")
    replay = in_own_process(OURS, root, base_url, rows, in_flight)
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
            found = in_own_process(OURS, fresh_root(folder, rows), base_url, rows, 100)
        rate = found["done"] / found["seconds"]
        cpu = 1000 * found["cpu"] / rows
        print(f"| {rows:,} | {found['peak_mb']:.0f} | {rate:,.0f} | {cpu:.2f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=5000)
    parser.add_argument("--in-flight", type=int, nargs="+", default=[32, 100, 500])
    parser.add_argument("--memory", type=int, nargs="+", help="peak memory at these many rows")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="vispref-benchmark-") as folder:
        if given.memory:
            memory(Path(folder), given.memory)
        else:
            throughput(Path(folder), given.rows, given.in_flight)


if __name__ == "__main__":
    main()
