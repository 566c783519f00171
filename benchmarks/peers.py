"""The same 2,000 calls through other pipelines, each in an environment of its own.

    python -m benchmarks.peers --curator /path/to/its/bin/python --distilabel /path/to/its/bin/python

Nothing of theirs is installed by this project: make the environments first (benchmarks/README.md
has the lines). An arm whose interpreter is not given is left out, and none needs the internet.

`rows` counts the answers an arm ends with that are the server's text, and `calls` what the server
was asked. `rows/s, whole process` and CPU include imports and writing; `calls/s at the server` runs
from the second call's arrival to the last answer, and so leaves start and end out. Requests are as
long for all (4.7 kB, what ours come to). Every arm has a server, a home and a cache of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from benchmarks.arms import fresh_root, mock_server

# Best settings known for it: rates so high that its limiter never waits, as many calls in flight as
# the others, no live display. Where its start reaches out to the internet, it is told not to:
# - its token counter reads tiktoken's cl100k_base table, which litellm, one of its own requirements,
#   carries under the very name tiktoken looks for (tiktoken checks its SHA-256);
# - prices come from litellm's own copy; telemetry and the hosted viewer are off (see `OFFLINE`).
CURATOR = """
import importlib.util, json, os, sys
from importlib.metadata import version
from pathlib import Path

# Found without importing it: the folder must be named before tiktoken is asked.
litellm = Path(importlib.util.find_spec("litellm").origin).parent
os.environ["TIKTOKEN_CACHE_DIR"] = str(litellm / "litellm_core_utils" / "tokenizers")

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
            "base_url": url,
            "max_requests_per_minute": 1_000_000_000,
            "max_tokens_per_minute": 1_000_000_000_000,
            "max_concurrent_requests": in_flight,
            "require_all_responses": True,
        },
    )
    found = model([{"id": n, "prompt": f"Rewrite claim {n}. " * 230} for n in range(rows)])
    print("version", version("bespokelabs-curator"))
    print("rows", sum("chosen" in json.loads(text) for text in found.dataset["text"]))
"""

DISTILABEL = """
import json, sys
from importlib.metadata import version

from distilabel.models import OpenAILLM
from distilabel.pipeline import Pipeline
from distilabel.steps import LoadDataFromDicts
from distilabel.steps.tasks import TextGeneration

url, rows, in_flight = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])

if __name__ == "__main__":
    with Pipeline(name="peer") as pipeline:
        data = [{"instruction": f"Rewrite claim {n}. " * 230} for n in range(rows)]
        load = LoadDataFromDicts(data=data, batch_size=in_flight)
        write = TextGeneration(
            llm=OpenAILLM(model="mock", base_url=url, api_key="none"),
            input_batch_size=in_flight,
        )
        load >> write
    found = pipeline.run(use_cache=False)
    made = found["default"]["train"]["generation"]
    print("version", version("distilabel"))
    print("rows", sum("chosen" in json.loads(text) for text in made if text))
"""

# A row that is done was parsed and validated, and its answer stands in the cache and its table.
OURS = """
import asyncio, sys
from importlib.metadata import version
from pathlib import Path

from benchmarks.arms import whole_stage
from benchmarks.synthetic import open_synthetic

url, rows, in_flight, root = sys.argv[1], sys.argv[2], int(sys.argv[3]), Path(sys.argv[4])
work = open_synthetic(root, root / "cache", url, in_flight)
print("rows", asyncio.run(whole_stage(work, None))["done"])
print("version", version("vispref"))
"""


TOLD = re.compile(r"(rows|version) \S+")  # what an arm says of itself, among its library's lines

# Read by the peers' libraries: no telemetry, no hosted viewer, no live display, no look-ups.
OFFLINE = {
    "OPENAI_API_KEY": "none",
    "TELEMETRY_ENABLED": "false",
    "CURATOR_VIEWER": "0",
    "CURATOR_DISABLE_RICH_DISPLAY": "1",
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "HF_HUB_OFFLINE": "1",
}


@dataclass
class Measured:
    """What one arm said and used: its whole process, children included, and what was asked."""

    version: str
    rows: int
    seconds: float
    cpu: float
    calls: int
    serving: float

    def line(self, name: str) -> str:
        # The clock at the server starts with the second call.
        at_server = (self.calls - 1) / self.serving
        return (
            f"| {name} {self.version} | {self.rows:,} | {self.calls:,} | "
            f"{self.rows / self.seconds:,.0f} | {at_server:,.0f} | "
            f"{1000 * self.cpu / self.rows:.2f} |"
        )


def measure(python: str, code: str, arguments: list[str], url: str) -> Measured:
    """Runs one arm against the server at `url`. Exits with its error when it fails."""
    with tempfile.TemporaryDirectory() as home:
        script = Path(home) / "arm.py"
        script.write_text(code)
        environment = {
            **os.environ,
            **OFFLINE,
            "HOME": home,
            "CURATOR_CACHE_DIR": f"{home}/cache",
            "PYTHONPATH": os.getcwd() if python == sys.executable else "",
        }
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        began = time.perf_counter()
        found = subprocess.run(
            [python, str(script), url, *arguments],
            env=environment, capture_output=True, text=True, timeout=400, check=False,
        )  # fmt: skip
        seconds = time.perf_counter() - began
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if found.returncode != 0:
        raise SystemExit(f"{python}: {found.stderr[-2000:]}")
    told = dict(line.split() for line in found.stdout.splitlines() if TOLD.fullmatch(line))
    with urllib.request.urlopen(f"{url}/seen") as reply:
        seen = json.load(reply)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Measured(
        told["version"], int(told["rows"]), seconds, cpu, seen["calls"], seen["seconds"]
    )


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
    print("| arm | rows | calls | rows/s, whole process | calls/s at the server | CPU ms a row |")
    print("|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory(prefix="vispref-benchmark-") as folder:
        root = fresh_root(Path(folder), options.rows)
        for name, python, code in arms:
            arguments = [str(options.rows), str(options.in_flight), str(root)]
            with mock_server(100, 2) as url:
                found = measure(python, code, arguments, url)
            print(found.line(name), flush=True)
            if found.rows != options.rows:
                raise SystemExit(f"{name}: {found.rows} answers, not {options.rows}")


if __name__ == "__main__":
    main()
