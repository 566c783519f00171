"""The same 2,000 calls through other pipelines, each in an environment of its own.

    python -m benchmarks.peers --curator /path/to/its/bin/python --distilabel /path/to/its/bin/python

Nothing of theirs is installed by this project: make the environments first, for instance
`uv venv curator && uv pip install --python curator bespokelabs-curator`. An arm whose interpreter
is not given is left out. Seconds and CPU are those of the whole process, imports included, for
ours as for theirs.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.stage import mock_server
from benchmarks.synthetic import make_root

CURATOR = """
import sys
from bespokelabs import curator

url, rows, in_flight = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])

class Rewrite(curator.LLM):
    def prompt(self, row):
        return row["prompt"]

    def parse(self, row, response):
        return {"id": row["id"], "text": response}

if __name__ == "__main__":
    model = Rewrite(
        model_name="gpt-4o-mini",
        backend="openai",
        backend_params={
            "base_url": url + "/chat/completions",
            "max_requests_per_minute": 1_000_000,
            "max_tokens_per_minute": 1_000_000_000,
            "max_concurrent_requests": in_flight,
            "require_all_responses": True,
        },
    )
    found = model([{"id": n, "prompt": f"Rewrite claim {n}. " * 60} for n in range(rows)])
    data = getattr(found, "dataset", found)
    print("rows", len(data))
"""

DISTILABEL = """
import sys
from distilabel.models import OpenAILLM
from distilabel.pipeline import Pipeline
from distilabel.steps import LoadDataFromDicts
from distilabel.steps.tasks import TextGeneration

url, rows, in_flight = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])

if __name__ == "__main__":
    with Pipeline(name="peer") as pipeline:
        data = [{"instruction": f"Rewrite claim {n}. " * 60} for n in range(rows)]
        load = LoadDataFromDicts(data=data, batch_size=in_flight)
        write = TextGeneration(
            llm=OpenAILLM(model="mock", base_url=url, api_key="none"),
            input_batch_size=in_flight,
        )
        load >> write
    found = pipeline.run(use_cache=False)
    print("rows", len(found["default"]["train"]))
"""

OURS = """
import sys
from pathlib import Path
import asyncio
from benchmarks.stage import whole_stage
from benchmarks.synthetic import open_synthetic

url, rows, in_flight, root = sys.argv[1], sys.argv[2], int(sys.argv[3]), Path(sys.argv[4])
work = open_synthetic(root, root / "cache", url, in_flight)
print("rows", asyncio.run(whole_stage(work, None))["done"])
"""


def measure(python: str, code: str, arguments: list[str]) -> tuple[float, float, int]:
    """Seconds, CPU seconds of the process and its children, and the rows it says it made."""
    with tempfile.TemporaryDirectory() as home:
        script = Path(home) / "arm.py"
        script.write_text(code)
        environment = {
            **os.environ,
            "HOME": home,
            "OPENAI_API_KEY": "none",
            "TELEMETRY_ENABLED": "false",
            "CURATOR_CACHE_DIR": f"{home}/cache",
            "CURATOR_VIEWER": "0",
            "HF_HUB_OFFLINE": "1",
            "PYTHONPATH": os.getcwd() if python == sys.executable else "",
        }
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        began = time.perf_counter()
        found = subprocess.run(
            [python, str(script), *arguments],
            env=environment, capture_output=True, text=True, timeout=400, check=False,
        )  # fmt: skip
        seconds = time.perf_counter() - began
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if found.returncode != 0:
        raise SystemExit(f"{python}: {found.stderr[-2000:]}")
    rows = [line for line in found.stdout.splitlines() if line.startswith("rows ")]
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return seconds, cpu, int(rows[-1].split()[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--curator", help="the Python of an environment with bespokelabs-curator")
    parser.add_argument("--distilabel", help="the Python of one with distilabel[openai]")
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--in-flight", type=int, default=100)
    options = parser.parse_args()
    arms = [("vispref", sys.executable, OURS)]
    if options.curator:
        arms.append(("bespoke-curator", options.curator, CURATOR))
    if options.distilabel:
        arms.append(("distilabel", options.distilabel, DISTILABEL))
    print("| arm | rows | rows/s, whole process | CPU ms a row |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder, mock_server(100, 2) as url:
        root = Path(folder) / "root"
        make_root(root, options.rows)
        for name, python, code in arms:
            arguments = [url, str(options.rows), str(options.in_flight), str(root)]
            seconds, cpu, rows = measure(python, code, arguments)
            print(
                f"| {name} | {rows} | {rows / seconds:,.0f} | {1000 * cpu / options.rows:.2f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
