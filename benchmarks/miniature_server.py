"""Requests and tokens a second of the miniature world's model server, over HTTP.

    python -m benchmarks.miniature_server [--captioner DIR --reference DIR] [--requests 600]

Each request is a scene and a prompt for its description, answered by the reference model at
temperature 1, as the pipeline sends them.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import aiohttp

from miniature.model_service import REFERENCE
from miniature.scenes import DESCRIBE, make_scenes

WEIGHTS = Path(__file__).parents[1] / "miniature" / "weights"
WARM_UP = 64  # requests before the clock starts


async def main(options: argparse.Namespace) -> None:
    command = [sys.executable, "-m", "miniature.server", "--captioner", str(options.captioner)]
    server = subprocess.Popen(
        [*command, "--reference", str(options.reference)], stdout=subprocess.PIPE, text=True
    )
    try:
        url = server.stdout.readline().strip() if server.stdout else ""
        if not url:
            raise SystemExit("the server ended before it served; its error is above")
        await ask_all(url, bodies(WARM_UP, seed=1), options.at_once)
        began = time.perf_counter()
        tokens = await ask_all(url, bodies(options.requests), options.at_once)
        seconds = time.perf_counter() - began
    finally:
        server.terminate()
        server.wait()
    print(f"requests            {options.requests}, {options.at_once} at once")
    print(f"seconds             {seconds:.1f}")
    print(f"requests a second   {options.requests / seconds:.1f}")
    print(f"tokens a second     {sum(tokens) / seconds:.0f}")
    print(f"tokens an answer    {sum(tokens) / len(tokens):.1f}")


def bodies(requests: int, seed: int = 0) -> list[dict[str, Any]]:
    """One request a scene, each with a seed of its own."""
    found = []
    for number, scene in enumerate(make_scenes(requests, seed, "validation")):
        url = "data:image/png;base64," + base64.b64encode(scene.render()).decode()
        parts = [
            {"type": "image_url", "image_url": {"url": url}},
            {"type": "text", "text": DESCRIBE[number % len(DESCRIBE)]},
        ]
        messages = [{"role": "user", "content": parts}]
        found.append({"model": REFERENCE, "messages": messages, "seed": number, "max_tokens": 128})
    return found


async def ask_all(url: str, calls: list[dict[str, Any]], at_once: int) -> list[int]:
    """Completion tokens of each answer."""
    slots = asyncio.Semaphore(at_once)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

        async def ask(call: dict[str, Any]) -> int:
            async with slots, session.post(f"{url}/chat/completions", json=call) as response:
                body = await response.json()
                if response.status != 200:
                    raise SystemExit(f"the server refused: {body}")
                return int(body["usage"]["completion_tokens"])

        return await asyncio.gather(*map(ask, calls))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--captioner", type=Path, default=WEIGHTS / "captioner")
    parser.add_argument("--reference", type=Path, default=WEIGHTS / "reference")
    parser.add_argument("--requests", type=int, default=600)
    parser.add_argument("--at-once", type=int, default=128)
    asyncio.run(main(parser.parse_args()))
