"""The stand-in server's faults happen over real connections."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from miniature.server import StandInServer

sys.path.insert(0, str(Path(__file__).parent))
from wire_helpers import CAPTION, SCHEMA, TRUTH, claims_call, contents, picture_call, refusal, send


@pytest.fixture
def stand_in() -> Iterator[StandInServer]:
    with StandInServer([TRUTH]) as server:
        yield server


@pytest.mark.parametrize(
    ("kind", "status", "retry_after"),
    [
        ("http_429", 429, "0.5"),
        ("http_429_plain", 429, None),
        ("http_500", 500, None),
        ("http_503", 503, "0.5"),
    ],
)
async def test_a_refusing_server(
    stand_in: StandInServer, kind: str, status: int, retry_after: str | None
) -> None:
    stand_in.set_faults([{"kind": kind, "next": 1, "seconds": 0.5}])
    found, headers, raw = await send(stand_in, picture_call())
    assert (found, headers.get("Retry-After")) == (status, retry_after)
    assert kind in json.loads(raw)["error"]["message"]
    assert await contents(stand_in, picture_call()) == [CAPTION]
    assert stand_in.stats()["faults"] == {kind: 1}


async def test_a_reset_connection(
    stand_in: StandInServer, caplog: pytest.LogCaptureFixture
) -> None:
    stand_in.set_faults(["reset:1"])
    with pytest.raises(aiohttp.ClientOSError, match="reset by peer"):
        await send(stand_in, picture_call())
    assert await contents(stand_in, picture_call()) == [CAPTION]
    assert stand_in.stats()["by_status"] == {"499": 1, "200": 1}
    assert caplog.records == []


async def test_a_hanging_call_hangs_until_the_server_ends() -> None:
    with StandInServer([TRUTH], faults=["hang:1"]) as server:
        call = asyncio.create_task(send(server, picture_call()))
        while server.stats()["faults"] != {"hang": 1}:
            await asyncio.sleep(0.01)
        assert await contents(server, picture_call()) == [CAPTION]
        assert not call.done()
        await asyncio.to_thread(server.stop)
        with pytest.raises(aiohttp.ClientError):
            await call


async def test_slow_bytes_come_piece_by_piece(stand_in: StandInServer) -> None:
    stand_in.set_faults([{"kind": "slow_bytes", "next": 1, "seconds": 0.4}])
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{stand_in.base_url}/chat/completions", json=picture_call()) as response,
    ):
        pieces = [piece async for piece in response.content.iter_any()]
    assert len(pieces) > 3
    body = json.loads(b"".join(pieces))
    assert body["choices"][0]["message"]["content"] == CAPTION


async def test_broken_bodies(stand_in: StandInServer) -> None:
    stand_in.set_faults(["truncated_body:1", "html:1"])
    status, headers, raw = await send(stand_in, picture_call())
    assert (status, headers["Content-Type"].split(";")[0]) == (200, "application/json")
    with pytest.raises(json.JSONDecodeError):
        json.loads(raw)
    status, headers, raw = await send(stand_in, picture_call())
    assert (status, raw[:6]) == (200, b"<html>")
    assert headers["Content-Type"].startswith("text/html")


async def test_odd_contents(stand_in: StandInServer) -> None:
    [whole] = await contents(stand_in, claims_call())

    async def spoilt(kind: str) -> Any:
        stand_in.set_faults([f"{kind}:1"])
        [content] = await contents(stand_in, claims_call(max_tokens=64))
        return content

    assert await spoilt("truncated_json") == whole[: len(whole) // 2]
    assert whole in await spoilt("prose_around_json")
    assert (await spoilt("refusal")).startswith("I'm sorry")
    assert await spoilt("empty") == ""
    assert await spoilt("null") is None
    assert len(await spoilt("huge")) >= 100_000


async def test_odd_usage(stand_in: StandInServer) -> None:
    stand_in.set_faults(["bad_usage:1", "no_usage:1"])
    _, _, raw = await send(stand_in, picture_call())
    assert json.loads(raw)["usage"]["prompt_tokens"] == -1
    _, _, raw = await send(stand_in, picture_call())
    assert "usage" not in json.loads(raw)


async def test_a_server_without_schema_support(stand_in: StandInServer) -> None:
    stand_in.set_faults(["no_schema_support=1"])
    status, message = await refusal(stand_in, claims_call(response_format=SCHEMA))
    assert (status, "response_format" in message, "json_schema" in message) == (400, True, True)
    assert await contents(stand_in, claims_call(response_format={"type": "json_object"}))


async def test_faults_are_set_over_http(stand_in: StandInServer) -> None:
    async with aiohttp.ClientSession() as session:
        given = {"faults": [{"kind": "http_500", "next": 1}, "reset=0"], "seed": 3}
        async with session.post(f"{stand_in.control_url}/faults", json=given) as response:
            assert await response.json() == {"faults": 2}
        for wrong in ({"faults": ["nonsense:1"]}, {}, []):
            async with session.post(f"{stand_in.control_url}/faults", json=wrong) as response:
                assert response.status == 400
    assert (await send(stand_in, picture_call()))[0] == 500
    assert (await send(stand_in, picture_call()))[0] == 200
