"""A server that dies, comes back, serves another model, or was never there. Scripted replies."""

import asyncio
import contextlib
import itertools
import json
import socket
import sys
from pathlib import Path

import pytest

from config.errors import EndpointDown, ModelNotServed, RequestRejected
from config.settings import Endpoint
from models import outage
from models.sender import Sender
from models.transport import Reply, TransportFault
from models.verdicts import is_listed, listed, queue_length
from storage.responses import ResponseCache

sys.path.insert(0, str(Path(__file__).parent))
from chat_helpers import Images, make_client, rewrite_request

MODEL = rewrite_request().model
REFUSED = "ClientConnectorError: Cannot connect to host x:80"


def fine():
    body = {"choices": [{"message": {"content": "fine"}, "finish_reason": "stop"}], "usage": {}}
    return Reply(200, {}, json.dumps(body).encode())


def serving(*names):
    return Reply(200, {}, json.dumps({"data": [{"id": name} for name in names]}).encode())


def cut():
    return TransportFault(REFUSED, cut=True)


@pytest.fixture
def cache(tmp_path):
    found = ResponseCache(tmp_path / "cache")
    yield found
    found.close()


class Scripted:
    """Replies in order; the last one for ever."""

    def __init__(self, posts=(), gets=()):
        self.posts, self.gets = self._all(posts), self._all(gets)
        self.posted, self.got = 0, []

    def _all(self, replies):
        made = list(replies)
        return itertools.chain(made, itertools.repeat(made[-1]))

    async def post(self, path, body):
        self.posted += 1
        await asyncio.sleep(0)
        return self._say(next(self.posts))

    async def get(self, url):
        self.got.append(url)
        await asyncio.sleep(0)
        return self._say(next(self.gets))

    def _say(self, found):
        if isinstance(found, Exception):
            raise found
        return found


@pytest.fixture(autouse=True)
def hurry(monkeypatch):
    monkeypatch.setattr(outage, "FIRST_PAUSE_S", 0.001)
    monkeypatch.setattr(outage, "LONGEST_PAUSE_S", 0.01)


def sender(transport, clock=None, **endpoint):
    settings = Endpoint(base_url="http://x/v1", **endpoint)
    made = Sender("claims", settings, transport, Images(), draw=lambda: 0.0, clock=clock or Clock())
    made.notes = []
    made.outage.say = made.notes.append
    return made


class Clock:
    """A second passes at each look."""

    now = 0.0

    def __call__(self):
        self.now += 1.0
        return self.now


async def test_calls_that_die_with_their_server_are_asked_again_and_lose_no_try():
    posts = [cut()] * 20 + [fine()]
    gets = [serving(MODEL), cut(), cut(), Reply(503, {}, b""), serving("other"), serving(MODEL)]
    transport = Scripted(posts, gets)
    client = sender(transport, max_tries=2, concurrency=20)
    answers = await asyncio.gather(*(client.send(rewrite_request(n), 1) for n in range(20)))
    assert [answer.text for answer in answers] == ["fine"] * 20
    assert transport.posted == 40
    assert client.stats.retries == {"server died": 20}
    assert len(transport.got) == 6  # one of them asks for all
    assert client.notes[0].startswith(f"waiting for claims at http://x/v1: {REFUSED} since ")
    assert client.notes[1:] == [""]


async def test_while_a_server_is_known_to_be_dead_nothing_is_sent():
    class Dying(Scripted):
        async def post(self, path, body):
            await asyncio.sleep(0)
            self.posted += 1
            return self._say(fine() if self.posted == 1 or len(self.got) > 20 else cut())

    transport = Dying([fine()], [serving(MODEL), *[cut()] * 19, serving(MODEL)])
    client = sender(transport, concurrency=4, down_patience_s=10_000)
    await client.send(rewrite_request(), 1)
    await asyncio.gather(*(client.send(rewrite_request(n), 1) for n in range(100)))
    # Those in flight, and those that took their slots before the first look had found it dead.
    assert client.stats.retries["server died"] <= 3 * 4


async def test_a_call_cut_off_by_a_server_that_lives_loses_a_try():
    transport = Scripted([cut()], [serving(MODEL)])
    with pytest.raises(EndpointDown, match="2 tries failed"):
        await sender(transport, max_tries=2).send(rewrite_request(), 1)
    assert transport.posted == 2


async def test_a_machine_that_takes_no_connection_is_waited_for_like_a_dead_server(cache):
    """Its port is open and its queue of connections full: a connection is never made."""
    with socket.socket() as full, contextlib.ExitStack() as held:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        address = full.getsockname()
        for _ in range(3):
            one = held.enter_context(socket.socket())
            one.setblocking(False)
            one.connect_ex(address)
        client = make_client(
            f"http://127.0.0.1:{address[1]}/v1", cache, connect_timeout_s=0.2, down_patience_s=0.5
        )
        with pytest.raises(EndpointDown, match="no connection within the time-out"):
            await client.ask(rewrite_request())
        await client.aclose()


async def test_a_request_that_is_there_whenever_the_server_dies_is_given_up():
    """What it asks may be the reason."""
    transport = Scripted([fine(), cut()], [serving(MODEL), *[cut(), serving(MODEL)] * 3])
    client = sender(transport, max_tries=3)
    assert (await client.send(rewrite_request(0), 1)).text == "fine"
    with pytest.raises(EndpointDown, match="3 tries failed"):
        await client.send(rewrite_request(1), 1)

    class Poisoned(Scripted):
        async def post(self, path, body):
            bad = b"dog 1." in body
            self.gets = self._all([cut(), serving(MODEL)] if bad else [serving(MODEL)])
            await asyncio.sleep(0)
            return self._say(cut() if bad else fine())

    client = sender(Poisoned([fine()], [serving(MODEL)]), max_tries=3, concurrency=1)
    found = await asyncio.gather(
        *(client.send(rewrite_request(n), 1) for n in range(10)), return_exceptions=True
    )
    assert isinstance(found.pop(1), RequestRejected)
    assert [answer.text for answer in found] == ["fine"] * 9


async def test_a_server_that_stays_dead_stops_the_stage_and_says_what_to_do():
    transport = Scripted([fine(), cut()], [serving(MODEL), cut()])
    client = sender(transport, down_patience_s=100)
    await client.send(rewrite_request(), 1)
    errors = await asyncio.gather(
        *(client.send(rewrite_request(n), 1) for n in range(5)), return_exceptions=True
    )
    assert {type(error) for error in errors} == {EndpointDown}
    for told in ("claims at http://x/v1 is dead since", REFUSED, "within 100 s", "Nothing done",
                 "VISPREF_CLAIMS__DOWN_PATIENCE_S"):  # fmt: skip
        assert told in str(errors[0])
    assert len({str(error) for error in errors}) == 1


async def test_a_server_that_was_never_there_is_not_waited_for_as_long():
    clock = Clock()
    with pytest.raises(EndpointDown, match="VISPREF_CLAIMS__BASE_URL"):
        await sender(Scripted([fine()], [cut()]), clock).send(rewrite_request(), 1)
    assert outage.NEVER_REACHED_S <= clock.now < 60


async def test_a_server_that_serves_another_model_after_a_restart_is_told_at_the_end():
    transport = Scripted([cut()], [serving(MODEL), cut(), serving("other")])
    with pytest.raises(EndpointDown, match=r"it serves \['other'\]"):
        await sender(transport, down_patience_s=50).send(rewrite_request(), 1)


async def test_when_the_call_that_waits_is_cancelled_another_one_goes_on():
    served = asyncio.Event()

    class Later(Scripted):
        async def get(self, url):
            return serving(MODEL) if served.is_set() else self._say(cut())

    client = sender(Later([cut(), cut(), fine()], [cut()]), clock=lambda: 0.0)
    calls = [asyncio.create_task(client.send(rewrite_request(n), 1)) for n in range(3)]
    await asyncio.sleep(0.02)
    calls[0].cancel()
    await asyncio.wait([calls[0]])
    assert not calls[1].done()
    served.set()
    assert [(await call).text for call in calls[1:]] == ["fine"] * 2


async def test_a_model_that_is_not_served_stops_before_any_call():
    transport = Scripted([fine()], [serving("a", "b")])
    with pytest.raises(ModelNotServed, match=r"serves \['a', 'b'\], not 'stand-in-claims'"):
        await sender(transport).send(rewrite_request(), 1)
    assert transport.posted == 0
    transport = Scripted([fine()], [serving("a", "b")])
    assert (await sender(transport, check_model=False).send(rewrite_request(), 1)).text == "fine"


@pytest.mark.parametrize(
    "says",
    [
        *(Reply(status, {}, b'{"data": []}') for status in (200, 301, 401, 403, 404, 405, 500)),
        Reply(200, {}, b"<html>"),
        TransportFault("no answer within the time-out", timed_out=True),
        TransportFault("InvalidURL"),
    ],
)
async def test_a_server_that_lists_no_models_is_asked_all_the_same(says):
    transport = Scripted([fine()], [says])
    client = sender(transport)
    for n in range(10):
        assert (await client.send(rewrite_request(n), 1)).text == "fine"
    assert transport.got == ["http://x/v1/models"]


@pytest.mark.parametrize(
    ("model", "name"),
    [("llava", "llava:latest"), ("gemini", "models/gemini"), ("v3:free", "v3"), ("a/b", "a/b")],
)
def test_names_under_which_servers_list_a_model(model, name):
    assert is_listed(model, ["other", name])
    assert not is_listed(model, ["other"])


def test_a_list_of_other_things_lists_no_models():
    assert listed(Reply(200, {}, b'{"data": [{"id": 7}]}')) is None
    assert listed(Reply(200, {}, b'{"data": "all"}')) is None


def test_the_queue_of_all_engines_is_read_from_the_metrics():
    body = (
        b"# HELP vllm:num_requests_waiting Number of requests waiting.\n"
        b"# TYPE vllm:num_requests_waiting gauge\n"
        b'vllm:num_requests_waiting{engine="0",model_name="a b"} 3.0\n'
        b'vllm:num_requests_waiting{engine="1",model_name="a b"} 4.0\n'
        b'vllm:num_requests_waiting_by_reason{engine="1"} 9.0\n'
    )
    assert queue_length(body) == 7.0
    assert queue_length(b"other 3.0\n") is None
    assert queue_length(b"vllm:num_requests_waiting many\n") is None
