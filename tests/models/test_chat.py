import asyncio
import logging
import sys
from pathlib import Path

import pytest

from config.errors import (
    AnswerTooLong,
    BudgetExhausted,
    EndpointDown,
    KeyRejected,
    ModelNotServed,
    RecipeError,
    RequestRejected,
    StorageError,
)
from config.settings import Budget
from miniature.server import StandInServer
from models.replies import retry_after
from models.requests import wire_body
from models.transport import Reply
from storage.responses import ResponseCache

sys.path.insert(0, str(Path(__file__).parent))
from chat_helpers import PAYER, ImagePart, Images, Message, make_client, rewrite_request


@pytest.fixture
def cache(tmp_path):
    found = ResponseCache(tmp_path / "cache")
    yield found
    found.close()


@pytest.fixture
def server():
    with StandInServer() as found:
        yield found


@pytest.fixture(params=["aiohttp", "openai"])
def transport(request):
    return request.param


def served(server):
    return server.stats()["calls"]


async def asked(client, *requests):
    try:
        return await asyncio.gather(*map(client.ask, requests), return_exceptions=True)
    finally:
        await client.aclose()


async def test_an_answer_is_paid_once_and_then_comes_from_the_cache(server, cache, transport):
    [first] = await asked(
        make_client(server.base_url, cache, transport=transport, price_in=1.0, price_out=2.0),
        rewrite_request(),
    )
    [second] = await asked(make_client(server.base_url, cache), rewrite_request())
    assert '"chosen":"There is a dog 0."' in first.text.replace('": ', '":')
    assert (first.cached, second.cached) == (False, True)
    assert second.text == first.text
    assert first.cost_usd == pytest.approx(
        (first.prompt_tokens + 2 * first.completion_tokens) / 1e6
    )
    assert served(server) == 1
    assert cache.spent(PAYER) == (
        pytest.approx(first.cost_usd),
        first.prompt_tokens + first.completion_tokens,
    )


async def test_equal_requests_at_once_are_sent_once(server, cache):
    answers = await asked(make_client(server.base_url, cache), *[rewrite_request()] * 20)
    assert len({answer.text for answer in answers}) == 1
    assert served(server) == 1


@pytest.mark.parametrize(
    "change",
    [
        {"model": "other"},
        {"temperature": 0.1},
        {"top_p": 0.9},
        {"max_tokens": 99},
        {"seed": 1},
        {"sample": 1},
        {"nonce": 1},
        {"schema": {"type": "array"}},
        {"messages": (Message("user", (ImagePart("ab"), "x")),)},
    ],
)
def test_whatever_decides_the_answer_is_in_the_key(change):
    assert rewrite_request(**change).key != rewrite_request().key


@pytest.mark.parametrize("fault", ["http_500", "http_429_plain", "http_429", "reset"])
async def test_a_passing_fault_is_tried_again(server, cache, transport, fault):
    server.set_faults([f"{fault}:3"])
    client = make_client(server.base_url, cache, transport=transport)
    [answer] = await asked(client, rewrite_request())
    assert "dog" in answer.text
    assert sum(client.stats.retries.values()) == 3


async def test_faults_of_30_percent_lose_nothing_and_double_nothing(server, cache):
    server.set_faults(["http_500=0.3"])
    client = make_client(server.base_url, cache, concurrency=20, max_tries=30)
    answers = await asked(client, *[rewrite_request(n) for n in range(200)])
    assert [str(answer) for answer in answers if isinstance(answer, Exception)] == []
    assert [f"dog {n}." in answer.text for n, answer in enumerate(answers)] == [True] * 200
    assert client.stats.answers == 200


async def test_a_dead_server_is_one_clear_error_for_all(cache, transport):
    client = make_client("http://127.0.0.1:9/v1", cache, transport=transport, down_patience_s=0.3)
    errors = await asked(client, *[rewrite_request(n) for n in range(5)])
    assert {type(error) for error in errors} == {EndpointDown}
    assert "claims at http://127.0.0.1:9/v1" in str(errors[0])
    assert "Nothing done is lost" in str(errors[0])


async def test_a_hanging_server_is_told_from_a_slow_one(server, cache, transport):
    server.set_faults(["hang=1"])
    client = make_client(
        server.base_url, cache, transport=transport, timeout_s=0.2, max_tries=2, concurrency=8
    )
    errors = await asked(client, *[rewrite_request(n) for n in range(8)])
    assert {type(error) for error in errors} == {EndpointDown}
    assert any("hangs" in str(error) or "time-out" in str(error) for error in errors)


async def test_a_request_that_fails_alone_costs_its_row_only(server, cache):
    client = make_client(server.base_url, cache)
    errors = await asked(client, rewrite_request(messages=(Message("user", ("no data",)),)))
    assert isinstance(errors[0], RequestRejected)
    client = make_client(server.base_url, cache)
    [answer] = await asked(client, rewrite_request())
    assert "dog" in answer.text


async def test_a_model_that_is_not_served_stops_the_stage_and_names_those_that_are(server, cache):
    [error] = await asked(make_client(server.base_url, cache), rewrite_request(model="gpt-9"))
    assert isinstance(error, ModelNotServed)
    assert "'gpt-9'" in str(error)
    assert "stand-in-claims" in str(error)


async def test_a_refused_key_stops_the_stage_and_is_shown_nowhere(
    tmp_path, cache, caplog, transport
):
    caplog.set_level(logging.DEBUG)
    with StandInServer(api_key="right") as server:
        client = make_client(server.base_url, cache, key="sk-wrong-secret", transport=transport)
        [error] = await asked(client, rewrite_request())
    assert isinstance(error, KeyRejected)
    assert "VISPREF_CLAIMS__API_KEY" in str(error)
    shown = str(error) + repr(client.endpoint) + caplog.text
    assert "sk-wrong-secret" not in shown
    assert b"sk-wrong-secret" not in cache.path.read_bytes()


async def test_a_server_without_schemas_is_asked_in_a_weaker_form(server, cache, caplog):
    server.set_faults(["no_schema_support=1"])
    client = make_client(server.base_url, cache)
    answers = await asked(client, *[rewrite_request(n) for n in range(3)])
    assert all("dog" in answer.text for answer in answers)
    assert caplog.text.count("takes no json_schema answers") == 1


async def test_an_answer_of_100_kb_fails_its_row_and_is_paid_once(server, cache):
    server.set_faults(["huge:1"])
    for _ in range(2):
        [error] = await asked(
            make_client(server.base_url, cache), rewrite_request(max_tokens=10**6)
        )
        assert isinstance(error, AnswerTooLong)
    assert served(server) == 1


async def test_slow_bytes_arrive_whole(server, cache, transport):
    server.set_faults(["slow_bytes:1"])
    [answer] = await asked(
        make_client(server.base_url, cache, transport=transport), rewrite_request()
    )
    assert "dog" in answer.text


async def test_the_budget_is_never_exceeded_and_work_goes_on_when_it_is_raised(server, cache):
    [one] = await asked(make_client(server.base_url, cache), rewrite_request(1000))
    each = one.prompt_tokens + one.completion_tokens
    spent = cache.spent(PAYER)
    limit = spent[1] + 10 * (each + 100)
    client = make_client(
        server.base_url, cache, budget=Budget(tokens=limit), spent=spent, concurrency=4
    )
    found = await asked(client, *[rewrite_request(n) for n in range(60)])
    stopped = [error for error in found if isinstance(error, BudgetExhausted)]
    assert stopped
    assert 10 <= 60 - len(stopped) < 60
    assert "VISPREF_BUDGET__TOKENS" in str(stopped[0])
    assert cache.spent(PAYER)[1] <= limit
    before = served(server)
    client = make_client(
        server.base_url, cache, budget=Budget(tokens=10**9), spent=cache.spent(PAYER)
    )
    found = await asked(client, *[rewrite_request(n) for n in range(60)])
    assert not [error for error in found if isinstance(error, Exception)]
    assert served(server) - before == len(stopped)


async def test_missing_usage_is_charged_at_its_worst(server, cache):
    server.set_faults(["bad_usage:1"])
    [answer] = await asked(make_client(server.base_url, cache), rewrite_request(max_tokens=77))
    assert answer.completion_tokens == 77


async def test_a_cache_that_cannot_be_written_is_one_clear_error(server, tmp_path):
    cache = ResponseCache(tmp_path / "cache")
    cache._connection.execute("PRAGMA query_only = ON")
    [error] = await asked(make_client(server.base_url, cache), rewrite_request())
    cache.close()
    assert isinstance(error, StorageError)
    assert "VISPREF_CACHE_DIR" in str(error)


def test_images_travel_as_the_endpoint_wants_them():
    request = rewrite_request(messages=(Message("user", (ImagePart("ab"), "What is this?")),))
    client = make_client("http://x/v1", None)
    for how, url in (
        ("data", b"data:image/png;base64,ab"),
        ("path", b"file:///images/ab.png"),
        ("url", b"https://cdn/set/images/ab.png"),
    ):
        endpoint = client.endpoint.model_copy(
            update={"image_transport": how, "image_url_prefix": "https://cdn/set/"}
        )
        assert url in wire_body(request, endpoint, Images(), "none")


def test_a_path_is_written_as_a_url_and_must_be_one_of_this_machine():
    class Elsewhere(Images):
        def __init__(self, path):
            self.full_path = lambda digest: path

    request = rewrite_request(messages=(Message("user", (ImagePart("ab"), "What is this?")),))
    endpoint = make_client("http://x/v1", None).endpoint
    endpoint = endpoint.model_copy(update={"image_transport": "path"})
    body = wire_body(request, endpoint, Elsewhere("/my set #1/a.png"), "none")
    assert b"file:///my%20set%20%231/a.png" in body
    with pytest.raises(RecipeError, match="local root"):
        wire_body(request, endpoint, Elsewhere("s3://bucket/a.png"), "none")


def test_retry_after_is_seconds_or_a_date():
    assert retry_after(Reply(429, {"Retry-After": "7"}, b"")) == 7.0
    assert retry_after(Reply(429, {"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}, b"")) == 0.0
    assert retry_after(Reply(429, {"Retry-After": "soon"}, b"")) is None
    assert retry_after(Reply(429, {}, b"")) is None
