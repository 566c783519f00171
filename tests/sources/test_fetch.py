from __future__ import annotations

import asyncio
import ipaddress
import socket
from typing import Any

import pytest

from config.errors import RefusedImage
from config.settings import Inputs
from sources.fetch import fetch, fetch_sync, is_reachable, shown_url


def open_inputs(**options: Any) -> Inputs:
    return Inputs(**{"fetch_urls": True, "allow_private_addresses": True, **options})


PUBLIC_ONLY = Inputs(fetch_urls=True, url_timeout_s=5)


async def refusal(url: str, inputs: Inputs) -> str:
    with pytest.raises(RefusedImage) as caught:
        await fetch(url, inputs)
    return caught.value.reason


def resolve_to(monkeypatch: pytest.MonkeyPatch, *answers: list[str]) -> list[str]:
    """Names resolve to each of the answers in turn. Returns the list of names asked for."""
    asked: list[str] = []
    waiting = list(answers)

    def answer(host: str, port: int, *rest: Any, **options: Any) -> list[Any]:
        asked.append(host)
        found = waiting.pop(0) if len(waiting) > 1 else waiting[0]
        family = socket.AF_INET
        return [(family, socket.SOCK_STREAM, 6, "", (address, port)) for address in found]

    monkeypatch.setattr(socket, "getaddrinfo", answer)
    return asked


async def test_an_image_is_fetched(image_server: Any) -> None:
    assert await fetch(image_server.url("image"), open_inputs()) == image_server.png
    ((path, headers),) = image_server.seen
    assert path == "/image"
    assert headers["Accept-Encoding"] == "identity"
    assert "Cookie" not in headers
    assert "Authorization" not in headers


def test_a_thread_without_a_loop_can_fetch_too(image_server: Any) -> None:
    assert fetch_sync(image_server.url("image"), open_inputs()) == image_server.png


async def test_nothing_is_fetched_unless_it_is_allowed(image_server: Any) -> None:
    inputs = Inputs(allow_private_addresses=True)
    assert await refusal(image_server.url("image"), inputs) == "url_not_allowed"
    assert image_server.seen == []


@pytest.mark.parametrize(
    "url",
    [
        "ftp://192.0.2.1/a.png",
        "file:///etc/passwd",
        "//192.0.2.1/a.png",
        "http:///a.png",
        "http://user:key@192.0.2.1/a.png",
        "http://user@192.0.2.1/a.png",
        "http://192.0.2.1:99999/a.png",
        "http://[::1/a.png",
    ],
)
async def test_urls_of_another_kind_are_refused(url: str) -> None:
    assert await refusal(url, open_inputs()) == "url_not_allowed"


@pytest.mark.parametrize("host", ["2130706433", "0x7f.1", "0177.0.0.1", "127.1", "127.0.0.1."])
async def test_odd_spellings_of_an_address_are_refused(image_server: Any, host: str) -> None:
    assert await refusal(image_server.url("image", host), open_inputs()) == "url_not_allowed"
    assert image_server.seen == []


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]", "[::ffff:127.0.0.1]"])
async def test_loopback_is_refused_by_default(image_server: Any, host: str) -> None:
    assert await refusal(image_server.url("image", host), PUBLIC_ONLY) == "url_private_address"
    assert image_server.seen == []


@pytest.mark.parametrize(
    ("address", "by_default", "with_private"),
    [
        ("8.8.8.8", True, True),
        ("2606:4700::1111", True, True),
        ("::ffff:8.8.8.8", True, True),
        ("64:ff9b::808:808", True, True),  # NAT64 of 8.8.8.8
        ("127.0.0.1", False, True),
        ("::1", False, True),
        ("::ffff:127.0.0.1", False, True),
        ("10.0.0.1", False, True),
        ("172.16.0.1", False, True),
        ("192.168.1.1", False, True),
        ("fc00::1", False, True),
        ("fec0::1", False, True),  # site-local, as old routers have it
        ("64:ff9b::a00:1", False, True),  # NAT64 of 10.0.0.1
        ("169.254.169.254", False, False),
        ("::ffff:169.254.169.254", False, False),
        ("64:ff9b::a9fe:a9fe", False, False),  # NAT64 of 169.254.169.254
        ("2002:a9fe:a9fe::1", False, False),  # 6to4 of 169.254.169.254
        ("fe80::1", False, False),
        ("0.0.0.0", False, False),
        ("::", False, False),
        ("224.0.0.1", False, False),
        ("ff02::1", False, False),
        ("240.0.0.1", False, False),
        ("255.255.255.255", False, False),
        ("100.64.0.1", False, False),
    ],
)
def test_addresses(address: str, by_default: bool, with_private: bool) -> None:
    parsed = ipaddress.ip_address(address)
    assert is_reachable(parsed, allow_private=False) is by_default
    assert is_reachable(parsed, allow_private=True) is with_private


async def test_a_name_with_one_private_address_is_refused(
    image_server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    resolve_to(monkeypatch, ["8.8.8.8", "10.0.0.1"])
    url = image_server.url("image", "pictures.example")
    assert await refusal(url, PUBLIC_ONLY) == "url_private_address"


async def test_the_connection_goes_to_the_address_that_was_vetted(
    image_server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name that answers otherwise the second time is not asked a second time."""
    asked = resolve_to(monkeypatch, ["127.0.0.1"], ["169.254.169.254"])
    url = image_server.url("image", "pictures.example")
    assert await fetch(url, open_inputs()) == image_server.png
    assert [name for name in asked if name == "pictures.example"] == ["pictures.example"]
    assert image_server.seen[0][1]["Host"].startswith("pictures.example:")


async def test_a_name_that_does_not_resolve_has_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_such_name(*given: Any, **options: Any) -> list[Any]:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", no_such_name)
    assert await refusal("http://pictures.example/a.png", PUBLIC_ONLY) == "url_failed"


async def test_redirects_are_followed_five_times_at_most(image_server: Any) -> None:
    five = "to/" * 5 + "image"
    assert await fetch(image_server.url(five), open_inputs()) == image_server.png
    assert await refusal(image_server.url("to/" + five), open_inputs()) == "url_failed"
    seen = len(image_server.seen)
    assert await refusal(image_server.url("loop/0"), open_inputs()) == "url_failed"
    assert len(image_server.seen) == seen + 6


async def test_where_a_redirect_leads_is_vetted_too(image_server: Any) -> None:
    # The first host is allowed here; what clouds keep at this address never is.
    assert await refusal(image_server.url("metadata"), open_inputs()) == "url_private_address"
    assert await refusal(image_server.url("file"), open_inputs()) == "url_not_allowed"


async def test_an_answer_other_than_200_has_failed(image_server: Any) -> None:
    assert await refusal(image_server.url("gone"), open_inputs()) == "url_failed"


async def test_a_closed_port_has_failed() -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        port = bound.getsockname()[1]
        assert await refusal(f"http://127.0.0.1:{port}/a.png", open_inputs()) == "url_failed"


async def test_a_slow_server_is_left(image_server: Any) -> None:
    inputs = open_inputs(url_timeout_s=0.2)
    assert await refusal(image_server.url("slow"), inputs) == "url_timeout"


async def test_a_body_without_an_end_is_left(image_server: Any) -> None:
    inputs = open_inputs(url_max_bytes=1_000_000)
    assert await refusal(image_server.url("endless"), inputs) == "url_too_large"
    left = await asyncio.to_thread(image_server.release.wait, 10)
    assert left  # the server saw the connection end


async def test_the_limit_is_the_last_size_that_passes(image_server: Any) -> None:
    size = len(image_server.png)
    url = image_server.url("image")
    assert await fetch(url, open_inputs(url_max_bytes=size)) == image_server.png
    assert await refusal(url, open_inputs(url_max_bytes=size - 1)) == "url_too_large"


async def test_compression_is_undone_up_to_the_limit(image_server: Any) -> None:
    url = image_server.url("zipped")
    size = len(image_server.png)
    assert await fetch(url, open_inputs(url_max_bytes=size)) == image_server.png
    assert await refusal(url, open_inputs(url_max_bytes=size - 1)) == "url_too_large"
    # About 50 kB on the wire, 50 MB undone.
    inputs = open_inputs(url_max_bytes=1_000_000)
    assert await refusal(image_server.url("bomb"), inputs) == "url_too_large"


@pytest.mark.parametrize("path", ["halfzipped", "brotli"])
async def test_a_body_that_cannot_be_undone_has_failed(image_server: Any, path: str) -> None:
    assert await refusal(image_server.url(path), open_inputs()) == "url_failed"


async def test_the_environments_proxies_are_not_used(
    image_server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    assert await fetch(image_server.url("image"), open_inputs()) == image_server.png


async def test_messages_hold_no_keys(image_server: Any) -> None:
    with pytest.raises(RefusedImage) as caught:
        await fetch(image_server.url("gone?signature=s3cret#frag"), open_inputs())
    assert "s3cret" not in str(caught.value)
    with pytest.raises(RefusedImage) as caught:
        await fetch("http://user:s3cret@192.0.2.1/a.png", open_inputs())
    assert "s3cret" not in str(caught.value)
    assert shown_url("https://h/a.png?k=1") == "https://h/a.png"


async def test_a_text_that_is_no_url_is_not_shown_for_it_may_hold_a_key() -> None:
    with pytest.raises(RefusedImage) as caught:
        await fetch("http://[::1/a.png?key=secret", open_inputs())
    assert "secret" not in str(caught.value)
