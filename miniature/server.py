"""The miniature world's model server: OpenAI's chat protocol over loopback.

It answers from checkpoints of tiny models, and the claim role by rule:

    python -m miniature.server --captioner DIR --reference DIR

or all three roles by rule, from what is written of each image:

    python -m miniature.server --annotations FILE

It prints its URL as the first line, says on the error output what it stands in for, and serves
until it is told to end (SIGTERM or Ctrl-C). In a test:

    with StandInServer(annotations) as server:
        ...  # server.base_url, server.stats(), server.set_faults(["http_500:3"])
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Self

from aiohttp import web

from config.errors import InputError
from miniature.annotations import Annotation, load_annotations
from miniature.application import StandIn
from miniature.faults import Fault, parse_fault
from miniature.services import RuleService, Service

LOOPBACK = "127.0.0.1"
GRACE_S = 0.1  # how long calls in flight may go on once the server is told to end


class StandInServer:
    """The server on a thread of its own. A port of 0 takes a free one.

    It answers by rule from the annotations, or with `service`, which it closes at its end. The
    other options are those of `miniature.application.StandIn`; faults may be given as text.
    """

    def __init__(
        self,
        annotations: Iterable[Annotation] = (),
        *,
        service: Service | None = None,
        port: int = 0,
        api_key: str | None = None,
        latency_ms: float = 0.0,
        gullible: bool = False,
        faults: Iterable[Fault | str] = (),
        fault_seed: int = 0,
        media_folder: Path | None = None,
    ) -> None:
        self._stand_in = StandIn(
            service or RuleService(annotations, gullible=gullible),
            api_key=api_key,
            latency_ms=latency_ms,
            faults=map(as_fault, faults),
            fault_seed=fault_seed,
            media_folder=media_folder,
        )
        self._port = port
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ready = threading.Event()
        self._failure: BaseException | None = None
        self._url: str | None = None

    @property
    def base_url(self) -> str:
        """What a client takes as base_url ("http://127.0.0.1:PORT/v1")."""
        if self._url is None:
            raise RuntimeError("the stand-in server is not running: call start() first")
        return f"{self._url}/v1"

    @property
    def control_url(self) -> str:
        """Where /stats and /faults are."""
        return self.base_url.removesuffix("/v1")

    def start(self) -> str:
        """Serves from now on; answers the base URL. Raises OSError where the port is taken."""
        if self._thread is not None:
            raise RuntimeError("the stand-in server was started already: make a new one")
        self._thread = threading.Thread(target=self._run, name="stand-in-server", daemon=True)
        self._thread.start()
        self._ready.wait()
        if self._failure is not None:
            self._thread.join()
            raise self._failure
        return self.base_url

    def stop(self) -> None:
        """Ends the server and every call that hangs. More than once does nothing."""
        if self._loop is not None and self._thread is not None and self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stand_in.closing.set)
        if self._thread is not None:
            self._thread.join()

    def stats(self) -> dict[str, Any]:
        """Counts of the calls served; the keys are those of `miniature.tally.Tally`."""
        return self._stand_in.tally.as_dict()

    def set_faults(self, faults: Iterable[Fault | str | Mapping[str, Any]], seed: int = 0) -> None:
        """Replaces all faults from the next call on. Raises ValueError for an unknown one."""
        self._stand_in.set_faults([as_fault(fault) for fault in faults], seed)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    async def __aenter__(self) -> Self:
        await asyncio.to_thread(self.start)
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.to_thread(self.stop)

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except OSError as error:
            self._failure = error
        finally:
            self._ready.set()

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()

        def ready(url: str) -> None:
            self._url = url
            self._ready.set()

        await serve(self._stand_in, self._port, ready)


async def serve(stand_in: StandIn, port: int, ready: Callable[[str], None]) -> None:
    """Serves on loopback until `stand_in.closing` is set; calls `ready(url)` once it listens."""
    runner = web.AppRunner(stand_in.application(), access_log=None, shutdown_timeout=GRACE_S)
    await runner.setup()
    try:
        await web.TCPSite(runner, LOOPBACK, port, backlog=1024).start()
        host, taken = runner.addresses[0][:2]
        ready(f"http://{host}:{taken}")
        await stand_in.closing.wait()
    finally:
        await runner.cleanup()
        await asyncio.to_thread(stand_in.service.close)


def as_fault(given: Fault | str | Mapping[str, Any]) -> Fault:
    return given if isinstance(given, Fault) else parse_fault(given)


def main(arguments: list[str] | None = None) -> int:
    """The command line; answers the exit status."""
    options = _parser().parse_args(arguments)
    try:
        service = _service(options)
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    for name, role in service.models.items():
        print(f"{name}: {service.stands_for[role]}", file=sys.stderr, flush=True)
    stand_in = StandIn(
        service,
        api_key=options.api_key,
        latency_ms=options.latency_ms,
        faults=options.fault,
        fault_seed=options.fault_seed,
        media_folder=options.media_folder,
    )
    try:
        asyncio.run(_serve_until_told(stand_in, options.port))
    except OSError as error:
        print(f"port {options.port} on {LOOPBACK} cannot be opened: {error}", file=sys.stderr)
        return 1
    return 0


def _service(options: argparse.Namespace) -> Service:
    """Who answers. Raises InputError where the options do not say it, or name what is not there."""
    folders = (options.captioner, options.reference)
    if options.annotations is not None and folders == (None, None):
        return RuleService(load_annotations(options.annotations), gullible=options.gullible)
    if options.annotations is not None or None in folders or options.gullible:
        raise InputError(
            "expected --captioner DIR and --reference DIR, or --annotations FILE, alone or "
            "with --gullible; see --help"
        )
    from miniature.model_service import ModelService  # torch, which the rules do without

    return ModelService.load(*folders)


async def _serve_until_told(stand_in: StandIn, port: int) -> None:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stand_in.closing.set)
    await serve(stand_in, port, lambda url: print(f"{url}/v1", flush=True))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m miniature.server", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    add = parser.add_argument
    add("--captioner", type=Path, help="the captioner's checkpoint, a folder")
    add("--reference", type=Path, help="the reference model's checkpoint, a folder")
    add("--annotations", type=Path, help="answer by rule: JSON lines of sha256, captions, objects")
    add("--port", type=int, default=0, help="0 takes a free port (default)")
    add("--api-key", help="refuse callers without this key")
    add("--latency-ms", type=float, default=0.0, help="wait this long before each answer")
    add("--gullible", action="store_true", help="obey instructions found outside the data block")
    add("--fault", type=parse_fault, action="append", default=[], metavar="KIND=P|KIND:N",
        help="a fault with probability P, or for the next N calls; may be repeated")  # fmt: skip
    add("--fault-seed", type=int, default=0, help="which calls a probability strikes")
    add("--media-folder", type=Path, help="the folder file:// image URLs may name")
    return parser


if __name__ == "__main__":
    sys.exit(main())
