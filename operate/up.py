"""`vispref up`: everything one machine needs, started in order, kept running, stopped in order."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from httpx import HTTPError
from prefect.client.orchestration import get_client
from prefect.settings import get_current_settings

from config.errors import OperationError
from config.settings import load_settings
from operate import programs
from operate.machine import port_is_free
from operate.pools import POOLS, crash_runs_of
from operate.processes import Identity, end
from operate.programs import Address
from operate.register import register
from operate.state import DEFAULT, State
from operate.supervisor import Keeper, Program, Status

LONG_S = 6 * 3600.0  # a keeper gives up by its own patience long before
WORKER_S = 120.0
LEFT_S = 10.0
Say = Callable[[str], None]


@dataclass(frozen=True)
class Options:
    """state: a folder that then also holds Prefect's home; None: the usual places."""

    host: str = "127.0.0.1"
    port: int = 4200
    state: Path | None = None

    @property
    def home(self) -> Path | None:
        return None if self.state is None else self.state.absolute() / "prefect"


def where(options: Options) -> Address:
    """The server that Prefect's settings name, or the one to start. Raises OperationError."""
    named = get_current_settings().api.url
    if named is not None:
        return Address(named.rstrip("/"), ours=False)
    has_password = get_current_settings().server.api.auth_string is not None
    if options.host not in programs.LOOPBACK and not has_password:
        raise OperationError(
            f"--host {options.host} would open the server to others without a password: set "
            "PREFECT_SERVER_API_AUTH_STRING=user:password, and put TLS in front of it; or leave "
            "--host out"
        )
    if not port_is_free(options.host, options.port):
        raise OperationError(
            f"port {options.port} on {options.host} is taken by another program; name a free one "
            "with --port, or set PREFECT_API_URL if it is a Prefect server to be used"
        )
    return programs.address(options.host, options.port)


def up(options: Options, say: Say) -> None:
    """Starts everything, says what runs where, and stays until a signal asks it to end.

    Raises OperationError when something cannot be started; what was started is stopped then.
    """
    settings = load_settings()
    models = programs.model_programs(settings)
    state = State(options.state or DEFAULT)
    with state.held():
        end(state.programs(), LEFT_S)  # what an `up` that was killed left running
        found = where(options)
        clients = programs.client_environment(found, options.home)
        with _signals() as stop, programs.talking_to(found, clients):
            try:
                _Machine(state, found, clients, say, stop).run(models)
            except HTTPError as error:
                raise OperationError(
                    f"Prefect's server {found.api} does not answer as it should: {error}. "
                    "vispref doctor says more"
                ) from error


@contextmanager
def _signals() -> Iterator[threading.Event]:
    """An event that SIGINT, SIGTERM and SIGHUP set."""
    stop = threading.Event()
    kinds = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {kind: signal.signal(kind, lambda *_: stop.set()) for kind in kinds}
    try:
        yield stop
    finally:
        for kind, handler in before.items():
            signal.signal(kind, handler)


class _Machine:
    def __init__(
        self,
        state: State,
        found: Address,
        clients: dict[str, str],
        say: Say,
        stop: threading.Event,
    ) -> None:
        self._state, self._where, self._clients = state, found, clients
        self._print, self._stop = say, stop
        self._keepers: dict[str, Keeper] = {}
        self._statuses: dict[str, Status] = {}
        self._ready = False
        self._writing = threading.Lock()
        self._me = Identity.of(os.getpid())
        self._workers = {pool: programs.worker_name(pool, state.folder) for pool in POOLS}

    def run(self, models: list[Program]) -> None:
        self._write()
        workers = programs.worker_programs(self._clients, self._state.folder)
        try:
            if self._where.ours:
                self._start([programs.server_program(self._where, self._clients)])
            if not self._stop.is_set():
                self._settle_runs()
                self._say("registering pools, deployments and the automation for dead runs")
                register(self._clients)
            self._start([*models, *workers])
            self._wait_for_workers()
            if not self._stop.is_set():
                self._summary()
                self._ready = True
                self._write()
            self._stop.wait()
            self._say("stopping")
        finally:
            self._shut_down({program.name for program in workers})

    def _start(self, started: list[Program]) -> None:
        """Starts programs together and waits until all are ready. Raises OperationError."""
        for program in started if not self._stop.is_set() else ():
            keeper = Keeper(program, self._state.log(program.name), self._tell)
            self._keepers[program.name] = keeper
            keeper.start()
        for program in started:
            if not self._stop.is_set() and not self._keepers[program.name].wait(LONG_S, self._stop):
                if self._stop.is_set():
                    return
                keeper = self._keepers[program.name]
                raise OperationError(f"{program.name} cannot be started: {keeper.trouble}")

    def _wait_for_workers(self) -> None:
        deadline = time.monotonic() + WORKER_S
        while not self._stop.is_set():
            missing = asyncio.run(_pools_without(self._workers))
            if not missing:
                return
            if time.monotonic() > deadline:
                raise OperationError(
                    f"no worker answers in the pools {', '.join(missing)} after {WORKER_S:.0f} s; "
                    f"see the logs in {self._state.logs}"
                )
            self._stop.wait(0.5)

    def _settle_runs(self) -> None:
        """Only while no worker of ours lives."""
        count = asyncio.run(_crash_runs(list(self._workers.values())))
        if count:
            self._say(f"Crashed now, because their worker was stopped: {count} runs; Retry goes on")

    def _shut_down(self, workers: set[str]) -> None:
        """Workers first, then what they left on the server, model servers, the server last."""
        self._stop_all(name for name in self._keepers if name in workers)
        if any(name in workers for name in self._keepers):
            try:
                self._settle_runs()
            except Exception as error:  # noqa: BLE001 - the rest must be stopped all the same
                self._say(f"runs under way could not be marked, the next up does it: {error}")
        self._stop_all(name for name in self._keepers if name != "prefect-server")
        self._stop_all(self._keepers)
        self._state.clear()

    def _stop_all(self, names: Iterable[str]) -> None:
        keepers = [self._keepers[name] for name in names]
        with ThreadPoolExecutor(max(1, len(keepers))) as pool:
            list(pool.map(Keeper.stop, keepers))

    def _say(self, text: str) -> None:
        with suppress(OSError):  # a terminal that was closed is no reason to let go of what runs
            self._print(text)

    def _tell(self, status: Status) -> None:
        with self._writing:
            self._statuses[status.name] = status
        self._say(f"{status.name}: {status.phase} ({status.message})")
        try:
            self._write()
        except OSError as error:  # a full disk, say; what runs is kept running
            self._say(f"{self._state.folder} cannot be written: {error}")

    def _write(self) -> None:
        with self._writing:
            self._state.write({
                "pid": self._me.pid,
                "created": self._me.created,
                "ready": self._ready,
                "api": self._where.api,
                "programs": {
                    status.name: {
                        "pid": status.identity and status.identity.pid,
                        "created": status.identity and status.identity.created,
                        "phase": status.phase,
                        "message": status.message,
                        "starts": status.starts,
                        "log": str(self._state.log(status.name)),
                    }
                    for status in self._statuses.values()
                },
            })  # fmt: skip

    def _summary(self) -> None:
        self._say(f"ready. The UI: {self._where.ui}")
        self._say(f"running: {', '.join(self._keepers)}. Logs: {self._state.logs}")
        self._say("Ctrl-C or vispref down stops it.")


async def _pools_without(workers: dict[str, str]) -> list[str]:
    """The pools in which the worker of that name is not online yet."""
    missing = []
    async with get_client() as client:
        for pool, name in workers.items():
            found = await client.read_workers_for_work_pool(pool)
            online = {worker.name for worker in found if worker.status == "ONLINE"}
            if name not in online:
                missing.append(pool)
    return missing


async def _crash_runs(workers: list[str]) -> int:
    async with get_client() as client:
        return await crash_runs_of(client, workers)


def detach(options: Options, say: Say) -> None:
    """Starts `up` as a process of its own and returns when all is ready. Raises OperationError."""
    state = State(options.state or DEFAULT)
    log = state.log("up")
    log.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "operate", options.host, str(options.port)]
    command += [] if options.state is None else [str(options.state.absolute())]
    with log.open("wb") as file:
        process = subprocess.Popen(  # noqa: S603 - this project's own module, no shell
            command,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        while not _is_ready(state, process.pid):
            if process.poll() is not None:
                raise OperationError(log.read_text(encoding="utf-8", errors="replace")[-3000:])
            time.sleep(0.2)
    except KeyboardInterrupt:
        process.terminate()
        process.wait()
        raise
    say(log.read_text(encoding="utf-8", errors="replace").rstrip())


def _is_ready(state: State, pid: int) -> bool:
    found = state.read()
    return found.get("pid") == pid and bool(found.get("ready"))
