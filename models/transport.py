"""How one request reaches the server: bytes out, status and bytes back. Two ways, one interface.

`aiohttp` is the default: the openai client costs several times its CPU time a call (measured in
benchmarks/README.md), which at 100 calls in flight is the limit. `openai` sends the same bytes
through that client, for gateways that need its behaviour.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import aiohttp

from config.settings import Endpoint

MAX_BODY = 4 * 1024 * 1024
EITHER_HEADER = 47  # zlib: gzip's or zlib's own
HEADERS = {"Content-Type": "application/json", "Accept-Encoding": "identity"}
TransportName = Literal["aiohttp", "openai"]
PROBES = 2  # connections beside those of the calls: a look at a busy server waits for no slot
NO_CONNECTION = "no connection within the time-out"
NO_ANSWER = "no answer within the time-out"
CUT = (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError, OSError)


@dataclass(frozen=True, slots=True)
class Reply:
    status: int
    headers: Mapping[str, str]
    body: bytes


class TransportFault(Exception):
    """No whole reply came. `timed_out`: the server took the request and said nothing.

    `cut`: no connection could be made, or it ended before the reply did, as when a server dies.
    """

    def __init__(self, message: str, *, timed_out: bool = False, cut: bool = False) -> None:
        super().__init__(message)
        self.timed_out, self.cut = timed_out, cut


class BodyTooLong(Exception):
    """The reply is longer than MAX_BODY."""


class Transport(Protocol):
    async def post(self, path: str, body: bytes) -> Reply:
        """Raises TransportFault or BodyTooLong."""
        ...

    async def get(self, url: str) -> Reply:
        """Of a whole URL, on the endpoint's own host: the key goes with it."""
        ...

    async def aclose(self) -> None: ...


def make_transport(name: TransportName, endpoint: Endpoint) -> Transport:
    return AiohttpTransport(endpoint) if name == "aiohttp" else OpenAITransport(endpoint)


def key_of(endpoint: Endpoint) -> str | None:
    """The endpoint's key, without the line's end that a key read from a file may carry."""
    return None if endpoint.api_key is None else endpoint.api_key.get_secret_value().strip()


class AiohttpTransport:
    """Plain HTTP with one connection pool. Environment proxies are not used."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._base = str(endpoint.base_url).rstrip("/")
        self._headers = dict(HEADERS)
        key = key_of(endpoint)
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
                connector=aiohttp.TCPConnector(limit=self._concurrency + PROBES),
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,  # or a small body could become a very large one
            )
        return self._opened

    async def post(self, path: str, body: bytes) -> Reply:
        return await self._request("POST", self._base + path, body)

    async def get(self, url: str) -> Reply:
        return await self._request("GET", url, None)

    async def _request(self, method: str, url: str, body: bytes | None) -> Reply:
        try:
            async with self._session().request(
                method, url, data=body, allow_redirects=False
            ) as response:
                return Reply(response.status, response.headers, await _read(response))
        except aiohttp.ConnectionTimeoutError as error:
            raise TransportFault(NO_CONNECTION, cut=True) from error
        except TimeoutError as error:
            raise TransportFault(NO_ANSWER, timed_out=True) from error
        except (aiohttp.ClientError, OSError) as error:
            cut = isinstance(error, CUT) and not isinstance(error, aiohttp.ClientSSLError)
            raise TransportFault(f"{type(error).__name__}: {error}", cut=cut) from error

    async def aclose(self) -> None:
        if self._opened is not None:
            await self._opened.close()


async def _read(response: aiohttp.ClientResponse) -> bytes:
    """The body, its compression undone. Raises BodyTooLong, and TransportFault where it is broken.

    None is asked for, but a gateway may compress all the same.
    """
    encoding = response.headers.get("Content-Encoding", "identity").strip().lower()
    if encoding not in ("identity", "gzip", "deflate"):
        raise TransportFault(f"the reply is encoded as {encoding[:40]!r}, unasked")
    length = response.content_length
    if encoding == "identity" and length is not None and length <= MAX_BODY:
        return await response.read()
    undo = None if encoding == "identity" else zlib.decompressobj(EITHER_HEADER)
    body = bytearray()
    async for chunk in response.content.iter_any():
        body += chunk if undo is None else _inflated(undo, chunk, MAX_BODY + 1 - len(body))
        if len(body) > MAX_BODY:
            raise BodyTooLong
    return bytes(body)


def _inflated(undo: Any, chunk: bytes, limit: int) -> bytes:
    try:
        found: bytes = undo.decompress(chunk, limit)
    except zlib.error as error:
        raise TransportFault(f"the compressed reply is broken: {error}") from error
    return found


class OpenAITransport:
    """The openai client with its aiohttp transport; retries are left to us."""

    def __init__(self, endpoint: Endpoint) -> None:
        import httpx2
        from openai import AsyncOpenAI, DefaultAioHttpClient

        timeout = httpx2.Timeout(endpoint.timeout_s, connect=endpoint.connect_timeout_s)
        limits = httpx2.Limits(max_connections=endpoint.concurrency + PROBES)
        self._timeout_s = endpoint.timeout_s
        self._client = AsyncOpenAI(
            api_key=key_of(endpoint) or "none",
            base_url=endpoint.base_url,
            max_retries=0,
            timeout=timeout,
            http_client=DefaultAioHttpClient(
                timeout=timeout, limits=limits, follow_redirects=False, trust_env=False
            ),
        )
        self._raw: Any = httpx2.Response

    async def post(self, path: str, body: bytes) -> Reply:
        options: Any = {"headers": dict(HEADERS)}
        return await self._guarded(
            self._client.post(path, cast_to=self._raw, content=body, options=options)
        )

    async def get(self, url: str) -> Reply:
        return await self._guarded(self._client.get(url, cast_to=self._raw))

    async def _guarded(self, call: Any) -> Reply:
        import asyncio

        import httpx2
        import openai

        try:
            async with asyncio.timeout(self._timeout_s):  # the client's own limit is for each read
                response = await call
        except openai.APIStatusError as error:
            response = error.response
        except (openai.APITimeoutError, TimeoutError) as error:
            if isinstance(error.__cause__, httpx2.ConnectTimeout):
                raise TransportFault(NO_CONNECTION, cut=True) from error
            raise TransportFault(NO_ANSWER, timed_out=True) from error
        except openai.APIConnectionError as error:
            said = f"{type(error).__name__}: {error.__cause__ or error}"
            raise TransportFault(said, cut=True) from error
        if len(response.content) > MAX_BODY:
            raise BodyTooLong
        return Reply(response.status_code, response.headers, response.content)

    async def aclose(self) -> None:
        await self._client.close()
