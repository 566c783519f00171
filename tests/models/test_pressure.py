"""A server with vLLM's metrics: the calls in flight fall when its queue is long, and grow back."""

import asyncio
import sys
import time
from pathlib import Path

import pytest
from aiohttp import web

from models import pressure
from storage.responses import ResponseCache

sys.path.insert(0, str(Path(__file__).parent))
from chat_helpers import make_client, rewrite_request

BODY = {
    "choices": [{"message": {"content": "fine"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 10, "completion_tokens": 5},
    "model": "m",
}


class Server:
    """Runs `room` requests at once; the others wait."""

    def __init__(self):
        self.room, self.in_flight, self.looks = 100, 0, []
        self.metrics_status = 200

    async def answer(self, request):
        await request.read()
        self.in_flight += 1
        try:
            await asyncio.sleep(0.01)
        finally:
            self.in_flight -= 1
        return web.json_response(BODY)

    async def metrics(self, request):
        self.looks.append(time.monotonic())
        waiting = max(0, self.in_flight - self.room)
        text = f'vllm:num_requests_waiting{{engine="0"}} {waiting:.1f}\n'
        return web.Response(text=text, status=self.metrics_status)


@pytest.fixture
async def server():
    found = Server()
    app = web.Application()
    app.router.add_post("/v1/chat/completions", found.answer)
    app.router.add_get("/metrics", found.metrics)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    found.url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
    yield found
    await runner.cleanup()


@pytest.fixture
def cache(tmp_path):
    found = ResponseCache(tmp_path / "cache")
    yield found
    found.close()


async def until(condition, seconds=30):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.005)


async def keep_asking(client):
    async def worker(numbers):
        for n in numbers:
            await client.ask(rewrite_request(n))

    numbers = iter(range(10**9))
    async with client.calling(lambda note: None):
        await asyncio.gather(*(worker(numbers) for _ in range(100)))


@pytest.fixture
async def asking(server, cache, monkeypatch):
    """asking(**endpoint) -> a client that asks until the test's end, looking often."""
    monkeypatch.setattr(pressure, "LOOK_S", 0.02)
    started = []

    def start(**endpoint):
        client = make_client(server.url, cache, concurrency=40, **endpoint)
        started.append((client, asyncio.create_task(keep_asking(client))))
        return client

    yield start
    for client, task in started:
        task.cancel()
        await asyncio.wait([task])
        await client.aclose()


@pytest.mark.parametrize("transport", ["aiohttp", "openai"])
async def test_calls_in_flight_fall_while_the_queue_is_long_and_grow_back(
    server, asking, transport
):
    client = asking(queue_limit=4, transport=transport)
    await until(lambda: client.stats.in_flight == 40)
    server.room = 4
    await until(lambda: client.stats.in_flight <= 8)
    server.room = 100
    await until(lambda: client.stats.in_flight == 40)


async def test_a_server_that_says_nothing_of_a_queue_is_asked_once(server, asking):
    server.metrics_status = 404
    client = asking()
    await until(lambda: client.stats.answers > 500)
    assert len(server.looks) == 1
