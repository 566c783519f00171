"""Fetches an image by URL, only from addresses that anybody on the internet could reach.

Every address that a host name stands for is vetted, and the connection goes to a vetted address:
the name is not looked up a second time. Redirects are followed by hand, each vetted like the
first. The environment's proxies, cookies and credentials are not used.
"""

from __future__ import annotations

import asyncio
import ipaddress
import re
import socket
import zlib
from dataclasses import dataclass

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from config.errors import RefusedImage
from config.settings import Inputs
from sources.records import shown

MAX_REDIRECTS = 5
CHUNK_BYTES = 64 * 1024
HEADERS = {"User-Agent": "vispref", "Accept": "image/*", "Accept-Encoding": "identity"}

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_ENDS_IN_NUMBER = re.compile(r"(^|\.)(\d+|0[xX][0-9a-fA-F]*)\.?$")
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_CARRYING = 47  # zlib: either gzip's or zlib's header

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


async def fetch(url: str, inputs: Inputs) -> bytes:
    """The body behind `url`, at most `inputs.url_max_bytes` long after undoing compression.

    `inputs.url_timeout_s` is for all of it: names, redirects and body. Raises RefusedImage:
    url_not_allowed, url_private_address, url_too_large, url_timeout, url_failed.
    """
    if not inputs.fetch_urls:
        raise RefusedImage(
            "url_not_allowed",
            f"{shown_url(url)}: images are not fetched by URL; set fetch_urls to allow it",
        )
    try:
        async with asyncio.timeout(inputs.url_timeout_s):
            return await _follow(_parse(url), inputs)
    except TimeoutError as error:
        raise RefusedImage(
            "url_timeout", f"{shown_url(url)} took more than {inputs.url_timeout_s:g} s"
        ) from error
    except (aiohttp.ClientError, OSError, ValueError, zlib.error) as error:
        raise RefusedImage(
            "url_failed", f"{shown_url(url)} cannot be fetched: {type(error).__name__}"
        ) from error


def fetch_sync(url: str, inputs: Inputs) -> bytes:
    """`fetch` for a thread that runs no event loop."""
    return asyncio.run(fetch(url, inputs))


def shown_url(url: str) -> str:
    """A URL for messages and names, without user, query and fragment: they may hold keys."""
    try:
        parsed = URL(url)
        return str(parsed.with_user(None).with_query(None).with_fragment(None))[:200]
    except ValueError:
        return "a URL that cannot be parsed"


def is_reachable(address: Address, allow_private: bool) -> bool:
    """Whether an address may be connected to.

    Only global unicast addresses, and with `allow_private` also private and loopback ones; never
    link-local ones, where clouds keep their metadata. An IPv6 address that carries an IPv4 one
    is judged by both.
    """
    if isinstance(address, ipaddress.IPv6Address):
        if address.is_site_local:  # given up for fc00::/7, and still in use behind routers
            return allow_private
        if address.ipv4_mapped is not None:
            return is_reachable(address.ipv4_mapped, allow_private)
        for carried in _carried(address):
            if not is_reachable(carried, allow_private):
                return False
    if address.is_loopback:
        return allow_private
    if address.is_multicast or address.is_unspecified or address.is_link_local:
        return False
    if address.is_reserved and address not in _NAT64:
        return False
    return address.is_global or (allow_private and address.is_private)


def _carried(address: ipaddress.IPv6Address) -> list[ipaddress.IPv4Address]:
    carried = [address.sixtofour, *(address.teredo or ())]
    if address in _NAT64:
        carried.append(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF))
    return [entry for entry in carried if entry is not None]


@dataclass(frozen=True)
class _Pinned(AbstractResolver):
    """Answers with the addresses that were vetted, and looks nothing up."""

    addresses: tuple[Address, ...]

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        return [
            ResolveResult(
                hostname=host,
                host=str(address),
                port=port,
                family=socket.AF_INET if address.version == 4 else socket.AF_INET6,
                proto=socket.IPPROTO_TCP,
                flags=socket.AI_NUMERICHOST,
            )
            for address in self.addresses
        ]

    async def close(self) -> None:
        """Holds nothing that needs closing."""


def _parse(url: str) -> URL:
    try:
        return URL(url)
    except ValueError as error:
        raise RefusedImage(
            "url_not_allowed", "the text is not a URL; expected http://..."
        ) from error


async def _follow(url: URL, inputs: Inputs) -> bytes:
    for _ in range(MAX_REDIRECTS + 1):
        answer = await _get(url, inputs)
        if isinstance(answer, bytes):
            return answer
        url = answer
    raise RefusedImage("url_failed", f"more than {MAX_REDIRECTS} redirects")


async def _get(url: URL, inputs: Inputs) -> bytes | URL:
    """One request, to a vetted address: the body, or where it redirects to."""
    addresses = await _vetted(url, inputs.allow_private_addresses)
    connector = aiohttp.TCPConnector(resolver=_Pinned(addresses), use_dns_cache=False)
    async with (
        aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=inputs.url_timeout_s),
            auto_decompress=False,
            trust_env=False,
        ) as session,
        session.get(url, headers=HEADERS, allow_redirects=False) as response,
    ):
        if response.status in _REDIRECTS and "Location" in response.headers:
            return url.join(_parse(response.headers["Location"]))
        if response.status != 200:
            raise RefusedImage(
                "url_failed", f"{shown_url(str(url))} answered HTTP {response.status}"
            )
        return await _body(response, inputs.url_max_bytes)


async def _vetted(url: URL, allow_private: bool) -> tuple[Address, ...]:
    """The addresses of the URL's host, every one of which may be connected to."""
    where = shown_url(str(url))
    if url.scheme not in ("http", "https") or not url.host:
        raise RefusedImage("url_not_allowed", f"{where}: expected http:// or https:// and a host")
    if url.user is not None or url.password is not None:
        raise RefusedImage("url_not_allowed", f"{where}: a URL with a user name is not fetched")
    addresses = _literal(url.host, where) or await _look_up(url.host, url.port or 0)
    for address in addresses:
        if not is_reachable(address, allow_private):
            raise RefusedImage(
                "url_private_address",
                f"{where} leads to {address}, which is not a public address; put the image in a "
                "folder, or allow private addresses in the settings",
            )
    return addresses


def _literal(host: str, where: str) -> tuple[Address, ...]:
    """The address a host is written as; none for a name. Odd spellings of IPv4 are refused."""
    try:
        return (ipaddress.ip_address(host),)
    except ValueError:
        if ":" in host or _ENDS_IN_NUMBER.search(host):
            raise RefusedImage(
                "url_not_allowed",
                f"{where}: write an IPv4 address as four decimal numbers, as in 192.0.2.1",
            ) from None
        return ()


async def _look_up(host: str, port: int) -> tuple[Address, ...]:
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return tuple(dict.fromkeys(ipaddress.ip_address(entry[4][0]) for entry in found))


async def _body(response: aiohttp.ClientResponse, max_bytes: int) -> bytes:
    """The body with its compression undone, piece by piece, never more than the limit at once."""
    encoding = response.headers.get("Content-Encoding", "identity").strip().lower()
    if encoding not in ("identity", "gzip", "deflate"):
        raise RefusedImage("url_failed", f"the body is encoded as {shown(encoding)}, unasked")
    undo = None if encoding == "identity" else zlib.decompressobj(_CARRYING)
    body = bytearray()
    async for chunk in response.content.iter_chunked(CHUNK_BYTES):
        if undo is None:
            body += chunk
        else:
            body += undo.decompress(chunk, max_bytes + 1 - len(body))
        if len(body) > max_bytes:
            raise RefusedImage(
                "url_too_large",
                f"{shown_url(str(response.url))} is larger than url_max_bytes = {max_bytes}",
            )
    if undo is not None and not undo.eof:
        raise RefusedImage("url_failed", "the compressed body is cut off")
    return bytes(body)
