"""How one request reaches the server: bytes out, status and bytes back. Two ways, one interface.

`aiohttp` is the default: the openai client costs several times its CPU time a call (measured in
benchmarks/README.md), which at 100 calls in flight is the limit. `openai` sends the same bytes
through that client, for gateways that need its behaviour.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import aiohttp

from config.settings import Endpoint

MAX_BODY = 4 * 1024 * 1024
TransportName = Literal["aiohttp", "openai"]


@dataclass(frozen=True, slots=True)
class Reply:
    status: int
    headers: Mapping[str, str]
    body: bytes


class TransportFault(Exception):
    """No whole reply came: refused, reset, timed out. `timed_out` tells a hang from the rest."""

    def __init__(self, message: str, timed_out: bool = False) -> None:
        super().__init__(message)
        self.timed_out = timed_out


class BodyTooLong(Exception):
    """The reply is longer than MAX_BODY."""


class Transport(Protocol):
    async def post(self, path: str, body: bytes) -> Reply:
        """Raises TransportFault or BodyTooLong."""
        ...

    async def get(self, path: str) -> Reply: ...

    async def aclose(self) -> None: ...


def make_transport(name: TransportName, endpoint: Endpoint) -> Transport:
    return AiohttpTransport(endpoint) if name == "aiohttp" else OpenAITransport(endpoint)


def _key(endpoint: Endpoint) -> str | None:
    return None if endpoint.api_key is None else endpoint.api_key.get_secret_value()


class AiohttpTransport:
    """Plain HTTP with one connection pool. Environment proxies are not used."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._base = str(endpoint.base_url).rstrip("/")
        self._headers = {"Content-Type": "application/json"}
        key = _key(endpoint)
        if key is not None:
            self._headers["Authorization"] = f"Bearer {key}"
        self._timeout = aiohttp.ClientTimeout(
            total=endpoint.timeout_s, connect=None, sock_connect=endpoint.connect_timeout_s
        )
        self._concurrency = endpoint.concurrency
        self._opened: aiohttp.ClientSession | None = None

    def _session(self) -> aiohttp.ClientSession:
        if self._opened is None:  # made on first use, inside the loop it belongs to
            self._opened = aiohttp.ClientSession(
                timeout=self._timeout,
                headers=self._headers,
                connector=aiohttp.TCPConnector(limit=self._concurrency),
                cookie_jar=aiohttp.DummyCookieJar(),
            )
        return self._opened

    async def post(self, path: str, body: bytes) -> Reply:
        return await self._request("POST", path, body)

    async def get(self, path: str) -> Reply:
        return await self._request("GET", path, None)

    async def _request(self, method: str, path: str, body: bytes | None) -> Reply:
        try:
            async with self._session().request(
                method, self._base + path, data=body, allow_redirects=False
            ) as response:
                return Reply(response.status, response.headers, await _read(response))
        except TimeoutError as error:
            raise TransportFault("no answer within the time-out", timed_out=True) from error
        except aiohttp.ClientError as error:
            raise TransportFault(f"{type(error).__name__}: {error}") from error
        except OSError as error:
            raise TransportFault(f"{type(error).__name__}: {error}") from error

    async def aclose(self) -> None:
        if self._opened is not None:
            await self._opened.close()


async def _read(response: aiohttp.ClientResponse) -> bytes:
    length = response.content_length
    if length is not None and length <= MAX_BODY:
        return await response.read()
    body = bytearray()
    async for chunk in response.content.iter_any():
        body += chunk
        if len(body) > MAX_BODY:
            raise BodyTooLong
    return bytes(body)


class OpenAITransport:
    """The openai client with its aiohttp transport; retries are left to us."""

    def __init__(self, endpoint: Endpoint) -> None:
        import httpx2
        from openai import AsyncOpenAI, DefaultAioHttpClient

        timeout = httpx2.Timeout(endpoint.timeout_s, connect=endpoint.connect_timeout_s)
        limits = httpx2.Limits(max_connections=endpoint.concurrency)
        self._timeout_s = endpoint.timeout_s
        self._client = AsyncOpenAI(
            api_key=_key(endpoint) or "none",
            base_url=endpoint.base_url,
            max_retries=0,
            timeout=timeout,
            http_client=DefaultAioHttpClient(timeout=timeout, limits=limits),
        )
        self._raw: Any = httpx2.Response

    async def post(self, path: str, body: bytes) -> Reply:
        options: Any = {"headers": {"Content-Type": "application/json"}}
        return await self._guarded(
            self._client.post(path, cast_to=self._raw, content=body, options=options)
        )

    async def get(self, path: str) -> Reply:
        return await self._guarded(self._client.get(path, cast_to=self._raw))

    async def _guarded(self, call: Any) -> Reply:
        import asyncio

        import openai

        try:
            async with asyncio.timeout(self._timeout_s):  # the client's own limit is for each read
                response = await call
        except openai.APIStatusError as error:
            response = error.response
        except (openai.APITimeoutError, TimeoutError) as error:
            raise TransportFault("no answer within the time-out", timed_out=True) from error
        except openai.APIConnectionError as error:
            raise TransportFault(f"{type(error).__name__}: {error.__cause__ or error}") from error
        if len(response.content) > MAX_BODY:
            raise BodyTooLong
        return Reply(response.status_code, response.headers, response.content)

    async def aclose(self) -> None:
        await self._client.close()
