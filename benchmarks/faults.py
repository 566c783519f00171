"""The rewrite stage against a server that answers a share of its calls with HTTP 500.

    python -m benchmarks.faults --rows 5000 --failing 0.1 0.3

A server that fails a share f of its calls leaves 1 - f of the rate without faults: what is told is
the share of that which the stage reaches. Exits with 1 if a row is lost or doubled.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import duckdb

from benchmarks.arms import OURS, fresh_root, in_own_process, mock_server


def rows_written(root: Path) -> tuple[int, int]:
    """Rows in the stage's table, and how many different ones."""
    table = root / "tables" / "rewrites" / "*" / "part-*"
    found = duckdb.sql(f"SELECT count(*), count(DISTINCT key) FROM read_parquet('{table}')")
    rows, different = found.fetchall()[0]
    return rows, different


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=5000)
    parser.add_argument("--in-flight", type=int, default=100)
    parser.add_argument("--failing", type=float, nargs="+", default=[0.1, 0.3])
    given = parser.parse_args()
    print("| failing | rows | rows/s | of what the faults leave | CPU ms a row |")
    print("|---|---|---|---|---|")
    whole = 0.0
    with tempfile.TemporaryDirectory(prefix="vispref-benchmark-") as folder:
        # Without faults first: the others are told as a share of it.
        for failing in [0.0, *given.failing]:
            root = fresh_root(Path(folder), given.rows)
            with mock_server(100, 2, failing) as base_url:
                found = in_own_process(OURS, root, base_url, given.rows, given.in_flight)
            rows, different = rows_written(root)
            if (rows, different) != (given.rows, given.rows):
                raise SystemExit(
                    f"{failing:.0%} faults: {rows} rows, {different} different, not {given.rows}"
                )
            rate = rows / found["seconds"]
            whole = whole or rate
            print(
                f"| {failing:.0%} | {rows:,} | {rate:,.0f} | {rate / whole / (1 - failing):.2f} | "
                f"{1000 * found['cpu'] / rows:.2f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
