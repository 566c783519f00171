"""A loopback HTTP server that misbehaves on demand, and image bytes made on the spot."""

from __future__ import annotations

import gzip
import io
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from PIL import Image


@pytest.fixture(scope="session")
def encode() -> Callable[..., bytes]:
    """An image (a 4 x 2 red one where none is given) as a file's bytes."""

    def encoded(form: str, image: Image.Image | None = None, **options: Any) -> bytes:
        out = io.BytesIO()
        (image or Image.new("RGB", (4, 2), "red")).save(out, form, **options)
        return out.getvalue()

    return encoded


@pytest.fixture
def image_server(encode: Callable[..., bytes]) -> Iterator[Any]:
    """Serves on 127.0.0.1. `.url(path)`; `.seen` lists (path, headers); `.release` ends /slow."""
    png = encode("PNG")
    seen: list[tuple[str, dict[str, str]]] = []
    release = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            seen.append((self.path, dict(self.headers)))
            route, _, rest = self.path.partition("?")[0].strip("/").partition("/")
            getattr(self, f"serve_{route.split('.')[0]}", self.serve_nothing)(rest)

        def answer(self, body: bytes, status: int = 200, **headers: str) -> None:
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(name.replace("_", "-"), value)
            self.end_headers()
            self.wfile.write(body)

        def serve_nothing(self, rest: str) -> None:
            self.answer(b"no", 404)

        def serve_image(self, rest: str) -> None:
            self.answer(png)

        def serve_zipped(self, rest: str) -> None:
            self.answer(gzip.compress(png), Content_Encoding="gzip")

        def serve_halfzipped(self, rest: str) -> None:
            self.answer(gzip.compress(png)[:-12], Content_Encoding="gzip")

        def serve_brotli(self, rest: str) -> None:
            self.answer(png, Content_Encoding="br")

        def serve_bomb(self, rest: str) -> None:
            self.answer(gzip.compress(bytes(50_000_000)), Content_Encoding="gzip")

        def serve_slow(self, rest: str) -> None:
            release.wait(30)

        def serve_endless(self, rest: str) -> None:
            self.send_response(200)  # no Content-Length: the body ends with the connection
            self.end_headers()
            try:
                while not release.is_set():
                    self.wfile.write(bytes(65536))
            except OSError:
                release.set()

        def serve_to(self, rest: str) -> None:
            self.answer(b"", 302, Location=f"/{rest}")

        def serve_loop(self, rest: str) -> None:
            self.answer(b"", 302, Location=f"/loop/{int(rest) + 1}")

        def serve_metadata(self, rest: str) -> None:
            self.answer(b"", 302, Location="http://169.254.169.254/latest/meta-data")

        def serve_file(self, rest: str) -> None:
            self.answer(b"", 302, Location="file:///etc/passwd")

        def log_message(self, format: str, *args: Any) -> None:
            """Quiet."""

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def url(self, path: str, host: str = "127.0.0.1") -> str:
            return f"http://{host}:{self.server_port}/{path}"

    server = Server(("127.0.0.1", 0), Handler)
    server.seen, server.release, server.png = seen, release, png  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    yield server
    release.set()
    server.shutdown()
    thread.join()
    server.server_close()
