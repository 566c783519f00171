"""A chat server that answers one canned text after a fixed time: the ideal that clients face.

    python -m benchmarks.mock_server --latency-ms 100 --processes 2

Prints its base URL; serves until it is ended. Several processes share one port and one count:
`GET {base URL}/seen` gives the `calls` answered so far, faults included, and the `seconds` from
the second call's arrival to the last answer (bespoke-curator's first call, long before the others,
asks for rate limits).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import signal
import socket
import sys
import time
from multiprocessing.sharedctypes import SynchronizedArray
from multiprocessing.synchronize import Semaphore

from aiohttp import web

TEXT = json.dumps(
    {
        "chosen": "There is a red mug on the table beside two books and a lamp.",
        "rejected": "There is a blue plate on the chair beside three dogs and a clock.",
    }
)
BODY = json.dumps(
    {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": "mock",
        "choices": [
            {
                "index": 0,
                "finish_reason": "stop",
                "message": {"role": "assistant", "content": TEXT},
            }
        ],
        "usage": {"prompt_tokens": 300, "completion_tokens": 40, "total_tokens": 340},
    }
).encode()


def planted(number: int, failing: float) -> bool:
    """Whether call `number` (from 1) is a fault: spread evenly, the share `failing` of all."""
    return int(number * failing) > int((number - 1) * failing)


def serve(
    port: int, latency_s: float, failing: float, seen: SynchronizedArray[float], ready: Semaphore
) -> None:
    """`seen`, shared by all processes: calls, when the second arrived, when the last was answered.

    `ready` is released once this process listens.
    """

    async def answer(request: web.Request) -> web.Response:
        await request.read()
        with seen.get_lock():
            number = int(seen[0]) + 1
            seen[0] = number
            if number == 2:
                seen[1] = time.monotonic()
        await asyncio.sleep(latency_s)
        with seen.get_lock():
            seen[2] = time.monotonic()
        if planted(number, failing):
            return web.Response(status=500, text="planted")
        return web.Response(body=BODY, content_type="application/json")

    async def count(request: web.Request) -> web.Response:
        return web.json_response({"calls": int(seen[0]), "seconds": seen[2] - seen[1]})

    async def main() -> None:
        app = web.Application(client_max_size=64 * 2**20)
        app.router.add_post("/v1/chat/completions", answer)
        app.router.add_get("/v1/seen", count)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", port, backlog=2048, reuse_port=True).start()
        ready.release()
        await asyncio.Event().wait()

    asyncio.run(main())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--latency-ms", type=float, default=100.0)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--failing", type=float, default=0.0, help="share of HTTP 500")
    options = parser.parse_args()
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        seen, ready = multiprocessing.Array("d", 3), multiprocessing.Semaphore(0)
        workers = [
            multiprocessing.Process(
                target=serve,
                args=(port, options.latency_ms / 1000, options.failing, seen, ready),
                daemon=True,
            )
            for _ in range(options.processes)
        ]
        for worker in workers:
            worker.start()
        # An exit, unlike a signal's default, ends the worker processes too; they must not inherit it.
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
        for _ in workers:
            ready.acquire()
        print(f"http://127.0.0.1:{port}/v1", flush=True)
    for worker in workers:
        worker.join()


if __name__ == "__main__":
    main()
