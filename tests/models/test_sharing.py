"""Several processes share an endpoint's limits: real processes, one real server."""

import asyncio
import json
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from random import Random

import pytest
from aiohttp import web

from config.errors import StorageError
from models import sharing
from models.halt import Halt
from models.limits import BURST_S
from models.shares import Limits
from models.sharing import Sharing, folder_of
from models.throttle import Throttle
from storage.members import Members
from storage.root import Root

HERE = Path(__file__).parent

# Asks different questions until it is told to end; says which process asks in each of them.
ASK = """
import asyncio, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from chat_helpers import Message, ResponseCache, make_client, rewrite_request
from storage.root import Root

_, _, url, folder, name, endpoint = sys.argv
client = make_client(
    url, ResponseCache(Path(folder) / name), limits=Root(Path(folder) / "limits"), **eval(endpoint)
)

def request(n):
    return rewrite_request(messages=(Message("user", (f"{name} {n}",)),))

async def worker(numbers):
    for n in numbers:
        await client.ask(request(n))

async def main():
    numbers = iter(range(10**9))
    async with client.calling(lambda note: print(note, flush=True)):
        await asyncio.gather(*(worker(numbers) for _ in range(40)))

asyncio.run(main())
"""


class Counting:
    """Answers after `seconds`; knows how many calls are in flight, and which came when."""

    def __init__(self, seconds):
        self.seconds = seconds
        self.now = self.most = 0
        self.by_name, self.times = {}, []

    async def answer(self, request):
        body = json.loads(await request.read())
        name = body["messages"][0]["content"].split()[0]
        self.times.append(time.monotonic())
        self.now += 1
        self.most = max(self.most, self.now)
        mine = self.by_name.setdefault(name, [])
        mine.append(time.monotonic())
        try:
            await asyncio.sleep(self.seconds)
        finally:
            self.now -= 1
        usage = {"prompt_tokens": 10, "completion_tokens": 5}
        choice = {"message": {"content": "fine"}, "finish_reason": "stop"}
        return web.json_response({"choices": [choice], "usage": usage, "model": "m"})

    def count(self, name):
        return len(self.by_name.get(name, ()))

    def forget(self):
        self.most = self.now
        self.by_name, self.times = {}, []


@pytest.fixture
async def serve():
    runners = []

    async def start(seconds=0.05):
        counting = Counting(seconds)
        app = web.Application()
        app.router.add_post("/v1/chat/completions", counting.answer)
        runner = web.AppRunner(app, handler_cancellation=True)
        await runner.setup()
        runners.append(runner)
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        return counting, f"http://127.0.0.1:{runner.addresses[0][1]}/v1"

    yield start
    for runner in runners:
        await runner.cleanup()


@pytest.fixture
def ask(tmp_path):
    """ask(url, name, **endpoint): a process that asks until it is killed."""
    processes = []

    def start(url, name, **endpoint):
        processes.append(
            subprocess.Popen(
                [sys.executable, "-c", ASK, str(HERE), url, str(tmp_path), name, repr(endpoint)],
                stdout=subprocess.PIPE,
                text=True,
            )
        )
        return processes[-1]

    yield start
    for process in processes:
        process.kill()
        process.communicate()


async def until(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)


async def test_two_processes_never_have_more_calls_in_flight_than_one_may(serve, ask):
    server, url = await serve()
    first = ask(url, "first", concurrency=8)
    await until(lambda: server.count("first") > 40)
    assert server.most == 8
    second = ask(url, "second", concurrency=8)
    await until(lambda: server.count("second") > 0)
    before = server.count("first")
    await until(lambda: server.count("second") > 60 and server.count("first") > before + 60)
    assert server.most == 8
    first.send_signal(signal.SIGKILL)
    first.wait()
    await until(lambda: server.now <= 4)  # the server has seen that the dead one's calls are gone
    server.forget()
    await until(lambda: server.now == 8)  # the other grows into the place of the killed one
    assert set(server.by_name) == {"second"}
    assert server.most == 8
    assert second.poll() is None


async def test_a_limit_a_minute_is_shared_too(serve, ask):
    server, url = await serve(0.0)
    limit = 1200
    for name in ("first", "second"):
        ask(url, name, concurrency=8, requests_per_minute=limit)
    await until(lambda: server.count("first") and server.count("second"))
    server.forget()
    began = time.monotonic()
    await until(lambda: len(server.times) > 120)
    seconds = time.monotonic() - began
    assert len(server.times) <= limit / 60 * (seconds + BURST_S) + 2 * 2
    assert min(server.count("first"), server.count("second")) >= 30


async def test_more_processes_than_slots_wait_and_say_so(serve, ask):
    server, url = await serve()
    first = ask(url, "first", concurrency=1)
    await until(lambda: server.count("first") > 0)
    second = ask(url, "second", concurrency=1)
    # Which of them has the slot goes by their names; either way one waits until the other ends.
    said = [asyncio.to_thread(process.stdout.readline) for process in (first, second)]
    done, rest = await asyncio.wait(
        map(asyncio.ensure_future, said), return_when=asyncio.FIRST_COMPLETED, timeout=60
    )
    assert "until they make room" in done.pop().result()
    assert server.most == 1
    first.kill()
    first.wait()
    await until(lambda: server.count("second") > 0)
    second.kill()
    await asyncio.wait(rest)


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


class Other:
    """Another member, whose file this test writes."""

    def __init__(self, root):
        self.members = Members(root, "endpoint", {})
        self.members.join()

    def counts(self, *names):
        assert self.members.renew(frozenset({self.members.me, *names}))


async def looks(shared, number=3):
    """Waits until it has looked around so many times."""
    before = shared._members._beat
    await until(lambda: shared._members._beat >= before + number)


def part(root, clock):
    members = Members(root, "endpoint", {"concurrency": 8, "requests_per_minute": None,
                                         "tokens_per_minute": None}, clock=clock)  # fmt: skip
    halt = Halt()
    throttle = Throttle(Limits(8, None, None), clock, halt)
    notes = []
    return Sharing(members, throttle, halt, "claims at http://x/v1", notes.append), throttle, notes


async def test_alone_there_is_nothing_to_wait_for_and_nothing_is_left_behind(tmp_path):
    root, clock = Root(tmp_path), Clock()
    shared, throttle, notes = part(root, clock)
    async with shared:
        assert throttle.slots.limit == 8
    assert (throttle.slots.limit, notes) == (8, [])
    assert root.list("endpoint") == []


async def test_a_joiner_starts_once_it_is_counted_and_says_what_it_waits_for(tmp_path, monkeypatch):
    monkeypatch.setattr(sharing, "HURRY_S", 0.01)
    root, clock = Root(tmp_path), Clock()
    other = Other(root)
    shared, throttle, notes = part(root, clock)
    async with shared:
        await looks(shared)
        assert throttle.slots.limit == 0
        other.counts(shared._members.me)
        await until(lambda: throttle.slots.limit == 4)
    assert "2 processes share it" in notes[0]
    assert notes[-1] == ""


async def test_a_joiner_is_not_counted_before_calls_on_the_wire_have_ended(tmp_path, monkeypatch):
    monkeypatch.setattr(sharing, "LOOK_S", 0.01)
    monkeypatch.setattr(sharing, "HURRY_S", 0.01)
    root, clock = Root(tmp_path), Clock()
    shared, throttle, _ = part(root, clock)

    async with shared:
        for _ in range(6):
            await throttle.slots.acquire()
        other = Other(root)

        def counted():
            return other.members.me in shared._members.counted

        await until(lambda: throttle.slots.limit == 4)
        throttle.slots.release()
        await looks(shared)
        assert not counted()
        throttle.slots.release()
        await until(counted)


async def test_whatever_the_order_of_joining_and_leaving_the_limit_holds(tmp_path, monkeypatch):
    """Six that come and go as they like, each with a folder object and a thread of its own."""
    monkeypatch.setattr(sharing, "LOOK_S", 0.005)
    monkeypatch.setattr(sharing, "HURRY_S", 0.002)
    limit, sessions = 5, 12
    random = Random(7)
    in_flight, most, calls = 0, 0, 0

    async def call(throttle):
        nonlocal in_flight, most, calls
        await throttle.acquire(1)
        in_flight, calls = in_flight + 1, calls + 1
        most = max(most, in_flight)
        await asyncio.sleep(random.uniform(0, 0.02))
        in_flight -= 1
        throttle.release()

    async def come_and_go():
        for _ in range(sessions):
            limits, halt = Limits(limit, None, None), Halt()
            throttle = Throttle(limits, time.monotonic, halt)
            members = Members(Root(tmp_path), "endpoint", asdict(limits))
            async with Sharing(members, throttle, halt, "claims", lambda note: None):
                await asyncio.gather(*(call(throttle) for _ in range(random.randint(1, 20))))
            await asyncio.sleep(random.uniform(0, 0.05))

    await asyncio.wait_for(asyncio.gather(*(come_and_go() for _ in range(6))), 120)
    assert most == limit
    assert calls > 6 * sessions


async def test_who_cannot_renew_starts_no_call_until_it_has(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(sharing, "LOOK_S", 0.01)
    monkeypatch.setattr(sharing, "HURRY_S", 0.01)
    root, clock = Root(tmp_path), Clock()
    shared, throttle, _ = part(root, clock)
    async with shared:
        before = shared._members.me
        with monkeypatch.context() as patched:
            patched.setattr(Root, "put", _full)
            await until(lambda: caplog.text)
            clock.now = 15.0
            waiting = asyncio.create_task(throttle.slots.acquire())
            await asyncio.sleep(0.1)
            assert not waiting.done()
        await asyncio.wait_for(waiting, 10)
        assert shared._members.me != before
    assert caplog.text.count("cannot be renewed") == 1


async def test_a_folder_that_cannot_be_written_stops_before_any_call(tmp_path):
    (tmp_path / "file").write_text("in its way")
    shared, _, _ = part(Root(tmp_path / "file"), Clock())
    with pytest.raises(StorageError, match="VISPREF_LIMITS_DIR"):
        async with shared:
            raise AssertionError("nothing was to start")


async def test_an_error_nobody_foresaw_ends_the_waiting_of_calls(tmp_path, monkeypatch):
    monkeypatch.setattr(sharing, "LOOK_S", 0.01)
    root = Root(tmp_path)
    Other(root)  # which counts nobody
    shared, throttle, _ = part(root, Clock())
    async with shared:
        waiting = asyncio.create_task(throttle.acquire(1))
        monkeypatch.setattr(Members, "look", _broken)
        await until(lambda: shared._halt.stopped)
        await asyncio.wait_for(waiting, 10)
        with pytest.raises(StorageError, match="cannot be kept"):
            shared._halt.check()


def _full(self, relative, data):
    raise StorageError("disk full")


def _broken(self):
    raise ValueError("broken")


def test_an_endpoint_is_the_same_however_its_url_is_written():
    assert folder_of("http://Host:8000/v1/") == folder_of("http://host:8000/v1")
    assert folder_of("http://host:8000/v1") != folder_of("http://host:8001/v1")
