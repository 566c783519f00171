"""What the Prefect layer costs: the rewrite stage as a flow's tasks, beside the stage alone.

    python -m benchmarks.prefect_layer --rows 5000 20000

The flow's server is Prefect's embedded one, with a database of its own, on the same machine; with
PREFECT_API_URL set, that server. The clock runs inside the flow, as a server's start is paid once
and not by the rows. The arms take turns, and the median of each is told.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.arms import OURS, PREFECT, fresh_root, in_own_process, mock_server


def measure(folder: Path, rows: int, in_flight: int, repeats: int) -> dict[str, dict[str, float]]:
    """The medians of seconds, CPU seconds and peak MiB of both arms."""
    runs: dict[str, list[dict[str, Any]]] = {OURS: [], PREFECT: []}
    with mock_server(100, 2) as base_url:
        for _ in range(repeats):
            for arm, found in runs.items():
                root = fresh_root(folder, rows)
                found.append(in_own_process(arm, root, base_url, rows, in_flight))
                if found[-1]["done"] != rows:
                    raise SystemExit(f"{arm}: {found[-1]['done']} rows done, not {rows}")
    keys = ("seconds", "cpu", "peak_mb")
    return {
        arm: {key: statistics.median(run[key] for run in found) for key in keys}
        for arm, found in runs.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, nargs="+", default=[5000, 20000])
    parser.add_argument("--in-flight", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=3)
    given = parser.parse_args()
    print("| rows | arm | seconds | rows/s | overhead | CPU ms a row | peak MB |")
    print("|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory(prefix="vispref-benchmark-") as folder:
        for rows in given.rows:
            found = measure(Path(folder), rows, given.in_flight, given.repeats)
            alone = found[OURS]["seconds"]
            for arm, run in found.items():
                overhead = "" if arm == OURS else f"{run['seconds'] / alone - 1:.1%}"
                print(
                    f"| {rows:,} | {arm} | {run['seconds']:.2f} | {rows / run['seconds']:,.0f} | "
                    f"{overhead} | {1000 * run['cpu'] / rows:.2f} | {run['peak_mb']:.0f} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
