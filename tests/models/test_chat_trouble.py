"""What a real endpoint may send that the stand-in does not, and what happens on the way."""

import asyncio
import gzip
import itertools
import json
import sqlite3
import sys
import time
from pathlib import Path

import pytest
from aiohttp import web

from config.errors import (
    AnswerTooLong,
    BudgetExhausted,
    EndpointDown,
    KeyRejected,
    RequestRejected,
    StorageError,
)
from config.settings import Budget
from models.replies import parse_completion, retry_after
from models.transport import Reply
from storage.responses import ResponseCache

sys.path.insert(0, str(Path(__file__).parent))
from chat_helpers import PAYER, ImagePart, Message, make_client, rewrite_request

KEY = "sk-0123456789abcdef"
USAGE = {"prompt_tokens": 10, "completion_tokens": 5}


def completion(content="fine", usage=USAGE, **choice):
    choice = {"message": {"content": content}, "finish_reason": "stop", **choice}
    return {"choices": [choice], "usage": usage, "model": "m"}


def said(body=None, status=200, **headers):
    data = body if isinstance(body, bytes) else json.dumps(body or completion()).encode()
    return web.Response(body=data, status=status, headers=headers)


@pytest.fixture
async def serve():
    """serve(reply) -> base URL; `reply` is given the call's number and gives a response."""
    runners = []

    async def start(reply):
        numbers = itertools.count()

        async def handle(request):
            found = reply(next(numbers))
            return await found if asyncio.iscoroutine(found) else found

        app = web.Application()
        app.router.add_post("/v1/chat/completions", handle)
        runner = web.AppRunner(app)
        await runner.setup()
        runners.append(runner)
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        return f"http://127.0.0.1:{runner.addresses[0][1]}/v1"

    yield start
    for runner in runners:
        await runner.cleanup()


@pytest.fixture
def cache(tmp_path):
    found = ResponseCache(tmp_path / "cache")
    yield found
    found.close()


async def asked(client, *requests):
    try:
        return await asyncio.gather(*map(client.ask, requests), return_exceptions=True)
    finally:
        await client.aclose()


@pytest.mark.parametrize("headers", [{}, {"Retry-After": "0"}])
async def test_a_busy_server_uses_up_no_try(serve, cache, headers):
    url = await serve(lambda n: said(b"busy", 429, **headers) if n < 20 else said())
    [answer] = await asked(make_client(url, cache, max_tries=2), rewrite_request())
    assert answer.text == "fine"


async def test_a_server_that_stays_busy_stops_the_stage_and_fails_no_row(serve, cache):
    url = await serve(lambda n: said(b"busy", 429))
    client = make_client(url, cache, max_tries=2, busy_patience_s=0.3)
    errors = await asked(client, *[rewrite_request(n) for n in range(4)])
    assert {type(error) for error in errors} == {EndpointDown}
    assert "busy_patience_s" in str(errors[0])


@pytest.mark.parametrize(
    ("status", "body", "headers", "told"),
    [
        (429, b"later", {"Retry-After": "86400"}, "86400 s"),
        (429, b'{"error": {"code": "insufficient_quota"}}', {}, "no money"),
        (402, b"Insufficient Balance", {}, "no money"),
        (308, b"moved", {"Location": "https://elsewhere/v1"}, "BASE_URL"),
        (405, b"Method not allowed", {}, "405"),
    ],
)
async def test_what_no_request_can_pass_stops_the_stage_at_once(
    serve, cache, status, body, headers, told
):
    url = await serve(lambda n: said(body, status, **headers))
    client = make_client(url, cache)
    [error] = await asked(client, rewrite_request())
    assert isinstance(error, EndpointDown)
    assert told in str(error)
    assert client.stats.sent == 1


async def test_a_pause_asked_for_holds_for_calls_that_wait_for_a_slot(serve, cache):
    began = []

    def reply(n):
        began.append(time.monotonic())
        early = began[-1] - began[0] < 0.4
        return said(b"", 429, **{"Retry-After": "0.5"}) if early else said()

    url = await serve(reply)
    client = make_client(url, cache, concurrency=1)
    await asked(client, *[rewrite_request(n) for n in range(5)])
    assert client.stats.retries["HTTP 429"] == 1
    assert client.stats.sent == 6


async def test_a_failing_server_cannot_make_a_run_wait_for_a_day(serve, cache):
    url = await serve(lambda n: said() if n else said(b"", 500, **{"Retry-After": "86400"}))
    async with asyncio.timeout(15):
        [answer] = await asked(make_client(url, cache, busy_patience_s=0.1), rewrite_request())
    assert answer.text == "fine"


async def test_a_request_that_breaks_the_model_fails_its_row_and_not_the_stage(serve, cache):
    url = await serve(lambda n: said(b"CUDA error", 500))
    client = make_client(url, cache, max_tries=2)
    errors = []
    for n in range(3):
        errors += await asyncio.gather(client.ask(rewrite_request(n)), return_exceptions=True)
    await client.aclose()
    assert [type(error) for error in errors] == [RequestRejected, RequestRejected, EndpointDown]


async def test_a_weaker_answer_format_costs_no_try(serve, cache):
    def reply(n):
        return said(b"response_format is not supported", 400) if n < 2 else said()

    url = await serve(reply)
    [answer] = await asked(make_client(url, cache, max_tries=1), rewrite_request())
    assert answer.text == "fine"


async def test_moderation_of_one_request_is_no_refused_key(serve, cache):
    url = await serve(lambda n: said(b"flagged", 403) if n else said())
    client = make_client(url, cache)
    found = [await client.ask(rewrite_request(0))]
    found += await asked(client, rewrite_request(1))
    assert isinstance(found[1], RequestRejected)
    url = await serve(lambda n: said(b"forbidden", 403))
    [error] = await asked(make_client(url, cache), rewrite_request(2))
    assert isinstance(error, KeyRejected)


@pytest.mark.parametrize("at", [192, 196])
async def test_a_key_is_cut_out_before_the_text_is_cut_off(serve, cache, at):
    for status, wide in ((200, at), (500, at + 100), (400, at + 1800)):
        url = await serve(lambda n, s=status, w=wide: said(b"x" * w + KEY.encode(), s))
        client = make_client(url, cache, key=KEY, max_tries=1)
        [error] = await asked(client, rewrite_request(at))
        assert "sk-0" not in str(error)


async def test_a_key_in_an_answer_is_kept_nowhere_and_a_placeholder_spoils_no_text(serve, cache):
    url = await serve(lambda n: said({**completion(f"An EMPTY box {KEY}"), "model": KEY}))
    [answer] = await asked(make_client(url, cache, key=KEY + "\n"), rewrite_request())
    assert answer.text == "An EMPTY box [key]"
    assert KEY not in repr(cache.get(rewrite_request().key))
    [answer] = await asked(make_client(url, cache, key="EMPTY"), rewrite_request(1))
    assert answer.text.startswith("An EMPTY box")


async def test_a_compressed_bomb_is_cut_off_paid_and_not_asked_again(serve, cache):
    bomb = gzip.compress(b"x" * (64 * 2**20))
    url = await serve(lambda n: said(bomb, **{"Content-Encoding": "gzip"}))
    for sent in (1, 0):
        client = make_client(url, cache)
        [error] = await asked(client, rewrite_request())
        assert isinstance(error, AnswerTooLong)
        assert client.stats.sent == sent
    assert cache.spent(PAYER)[1] > 0


async def test_an_answer_that_was_compressed_unasked_is_read(serve, cache):
    body = gzip.compress(json.dumps(completion()).encode())
    url = await serve(lambda n: said(body, **{"Content-Encoding": "gzip"}))
    [answer] = await asked(make_client(url, cache), rewrite_request())
    assert answer.text == "fine"


async def test_http_200_with_an_error_in_it_is_that_error(serve, cache):
    def reply(n):
        return said({"error": {"code": 503, "message": "overloaded"}}) if n == 0 else said()

    url = await serve(reply)
    client = make_client(url, cache)
    [answer] = await asked(client, rewrite_request())
    assert answer.text == "fine"
    assert client.stats.retries == {"HTTP 503": 1}


@pytest.mark.parametrize(
    ("body", "text", "reason"),
    [
        (completion(None, finish_reason="content_filter"), "", "content_filter"),
        ({"choices": [], "usage": USAGE}, "", None),
        ({"choices": [{"message": {"content": None, "refusal": "No."}}]}, "No.", "refusal"),
        (completion([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]), "ab", "stop"),
        (completion(finish_reason={"odd": 1}), "fine", None),
    ],
)
def test_odd_completions_are_read_as_what_they_say(body, text, reason):
    found = parse_completion(json.dumps(body).encode())
    assert (found.text, found.finish_reason) == (text, reason)


def test_counts_that_cannot_be_are_no_counts():
    usage = {"prompt_tokens": 10**30, "completion_tokens": True}
    found = parse_completion(json.dumps(completion(usage=usage)).encode())
    assert (found.prompt_tokens, found.completion_tokens) == (None, None)
    assert retry_after(Reply(429, {"Retry-After": "inf"}, b"")) is None
    assert retry_after(Reply(429, {"Retry-After": "nan"}, b"")) is None


async def test_an_answer_without_choices_was_paid_for_and_is_not_asked_again(serve, cache):
    url = await serve(lambda n: said({"choices": [], "usage": USAGE}))
    client = make_client(url, cache)
    [answer] = await asked(client, rewrite_request())
    assert (answer.text, client.stats.sent) == ("", 1)
    assert cache.spent(PAYER)[1] == 15


async def test_the_end_of_one_waiter_is_not_the_end_of_another(serve, cache):
    arrived, release = asyncio.Event(), asyncio.Event()

    async def slow():
        arrived.set()
        await release.wait()
        return said()

    url = await serve(lambda n: slow())
    client = make_client(url, cache)
    first, second, third = (asyncio.create_task(client.ask(rewrite_request())) for _ in range(3))
    await arrived.wait()
    first.cancel()
    third.cancel()
    await asyncio.wait([first, third])
    release.set()
    assert (await second).text == "fine"
    assert first.cancelled()
    assert third.cancelled()
    await client.aclose()


@pytest.mark.parametrize("limit", [Budget(tokens=20_000), Budget(dollars=0.02)])
async def test_images_that_cost_more_than_was_thought_overshoot_no_budget(serve, cache, limit):
    url = await serve(lambda n: said(completion(usage={**USAGE, "prompt_tokens": 6000})))
    client = make_client(
        url, cache, budget=limit, image_tokens=100, price_in=1.0, price_out=1.0, concurrency=16
    )
    requests = [
        rewrite_request(n, messages=(Message("user", (ImagePart("ab"), str(n))),))
        for n in range(16)
    ]
    found = await asked(client, *requests)
    assert sum(isinstance(error, BudgetExhausted) for error in found) == 13
    assert cache.spent(PAYER)[1] <= 20_000


async def test_once_the_cost_of_an_image_is_known_calls_go_out_together(serve, cache):
    together = asyncio.Barrier(8)

    async def reply_to_all():
        await together.wait()
        return said()

    url = await serve(lambda n: said() if n == 0 else reply_to_all())
    client = make_client(url, cache, budget=Budget(tokens=10**6), concurrency=8)
    requests = [
        rewrite_request(n, messages=(Message("user", (ImagePart("ab"), str(n))),)) for n in range(9)
    ]
    async with asyncio.timeout(15):
        found = await asked(client, *requests)
    assert [answer.text for answer in found] == ["fine"] * 9


async def test_text_of_many_tokens_overshoots_no_budget(serve, cache):
    """Of some scripts every byte is a token."""
    text = "ሀ" * 1000
    usage = {"prompt_tokens": 3000, "completion_tokens": 5}
    url = await serve(lambda n: said(completion(usage=usage)))
    client = make_client(url, cache, budget=Budget(tokens=10_000), concurrency=16)
    requests = [rewrite_request(messages=(Message("user", (f"{text}{n}",)),)) for n in range(16)]
    await asked(client, *requests)
    assert 0 < cache.spent(PAYER)[1] <= 10_000


async def test_a_cache_that_takes_no_answer_stops_all_further_calls(serve, cache, monkeypatch):
    url = await serve(lambda n: said())

    def full(answer):
        raise cache._explained(sqlite3.OperationalError("database or disk is full"))

    monkeypatch.setattr(cache, "put", full)
    client = make_client(url, cache, concurrency=2)
    errors = await asked(client, *[rewrite_request(n) for n in range(50)])
    assert {type(error) for error in errors} == {StorageError}
    assert client.stats.sent <= 4
