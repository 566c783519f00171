"""Keeps a program running: started, watched, started again when it dies or no longer answers."""

from __future__ import annotations

import contextlib
import subprocess
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import psutil

from operate.processes import Identity, end, start
from operate.restarts import RestartPolicy

Phase = Literal["starting", "ready", "waiting", "gave up", "stopped"]
LOOK_S = 0.2  # how often a keeper looks whether its program still runs


class Unhealthy(Exception):
    """A probe's answer: why the program is taken for sick."""


def no_probe() -> None:
    """For programs that are well while they run."""


@dataclass(frozen=True)
class Program:
    """What is kept running. `probe` raises Unhealthy; seconds everywhere.

    patience_s: how long it may take until the first probe passes. failures: how many probes in a
    row, `every_s` apart, must fail before a program that was well is started again. grace_s: how
    long it may take to end when asked.
    """

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str]
    probe: Callable[[], None] = no_probe
    patience_s: float = 180.0
    every_s: float = 5.0
    failures: int = 12  # two minutes and more: a busy machine is no dead one
    grace_s: float = 20.0
    policy: RestartPolicy = field(default_factory=RestartPolicy)


@dataclass(frozen=True)
class Status:
    """What a keeper tells whenever it changes."""

    name: str
    phase: Phase
    message: str
    starts: int
    identity: Identity | None


class Keeper:
    """Keeps one program on a thread of its own, until `stop`."""

    def __init__(self, program: Program, log: Path, tell: Callable[[Status], None]) -> None:
        self.program = program
        self.log = log
        self._tell = tell
        self._ending = threading.Event()
        self._settled = threading.Condition()
        self._phase: Phase = "starting"
        self._message = ""
        self._starts = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._identity: Identity | None = None
        self._thread = threading.Thread(target=self._keep, name=program.name, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def wait(self, timeout_s: float, stop: threading.Event) -> bool:
        """Whether the program was ready in time; False too once it was given up or `stop` is set."""
        deadline = time.monotonic() + timeout_s
        with self._settled:
            while self._phase in ("starting", "waiting") and not stop.is_set():
                left = deadline - time.monotonic()
                if left <= 0:
                    return False
                self._settled.wait(min(left, LOOK_S))
            return self._phase == "ready"

    @property
    def trouble(self) -> str:
        return self._message

    def stop(self) -> None:
        """Ends the program and all that came from it. Returns when none of it runs."""
        if self._phase == "stopped":
            return
        self._ending.set()
        if self._thread.ident is not None:
            self._thread.join()
        self._change("stopped", "stopped as asked")

    def _keep(self) -> None:
        deaths: list[float] = []
        while not self._ending.is_set():
            why = self._live()
            if self._ending.is_set():
                return
            deaths.append(time.monotonic())
            delay = self.program.policy.delay(deaths, deaths[-1])
            if delay is None:
                self._change("gave up", f"{why}; it died {len(deaths)} times, see {self.log}")
                return
            self._change("waiting", f"{why}; starts again in {delay:.0f} s")
            self._ending.wait(delay)

    def _live(self) -> str:
        """One life of the program: from its start until it ended or was ended. Gives the reason."""
        self._starts += 1
        try:
            process = start(self.program.command, self.program.environment, self.log)
        except OSError as error:
            return f"cannot be started: {error.strerror or error}"
        self._process = process
        with contextlib.suppress(psutil.NoSuchProcess):
            self._identity = Identity.of(process.pid)
        try:
            self._change("starting", f"process {process.pid}")
            return self._watch(process)
        finally:
            if self._identity is not None:
                end([self._identity], self.program.grace_s)
            process.wait()
            self._process = self._identity = None

    def _watch(self, process: subprocess.Popen[bytes]) -> str:
        started = time.monotonic()
        next_probe, failed = started, 0
        while not self._ending.wait(LOOK_S):
            code = process.poll()
            if code is not None:
                return f"ended with code {code}" if code >= 0 else f"was killed by signal {-code}"
            now = time.monotonic()
            if now < next_probe:
                continue
            ready = self._phase == "ready"
            next_probe = now + (self.program.every_s if ready else LOOK_S)
            try:
                self.program.probe()
            except Unhealthy as sick:
                failed += 1 if ready else 0
                if failed >= self.program.failures:
                    return f"did not answer {failed} times in a row: {sick}"
                if not ready and now - started > self.program.patience_s:
                    return f"was not ready in {self.program.patience_s:g} s: {sick}"
            else:
                failed = 0
                if not ready:
                    self._change("ready", f"process {process.pid}")
        return "was asked to end"

    def _change(self, phase: Phase, message: str) -> None:
        with self._settled:
            self._phase, self._message = phase, message
            self._settled.notify_all()
        self._tell(Status(self.program.name, phase, message, self._starts, self._identity))
