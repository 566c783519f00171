"""Processes as trees: started apart from the terminal, known by more than their number, ended whole."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

LOG_LIMIT = 20_000_000  # bytes; a longer log is set aside when its program starts again
KILLED_S = 10.0  # how long a killed process may take to go


@dataclass(frozen=True)
class Identity:
    """A process: numbers are used again, a number and its start are not."""

    pid: int
    created: float

    @classmethod
    def of(cls, pid: int) -> Identity:
        """Raises psutil.NoSuchProcess."""
        return cls(pid, psutil.Process(pid).create_time())

    def find(self) -> psutil.Process | None:
        """The process while it runs; a zombie does not."""
        with contextlib.suppress(psutil.Error):
            process = psutil.Process(self.pid)
            same = abs(process.create_time() - self.created) < 0.01
            if same and process.status() != psutil.STATUS_ZOMBIE:
                return process
        return None


def start(
    command: Sequence[str], environment: Mapping[str, str], log: Path
) -> subprocess.Popen[bytes]:
    """Starts a program in a session of its own, so that a terminal's Ctrl-C does not reach it.

    Its output is added to `log`. Raises OSError where it cannot be started.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    if log.exists() and log.stat().st_size > LOG_LIMIT:
        log.replace(log.with_name(log.name + ".old"))
    with log.open("ab") as file:
        return subprocess.Popen(  # noqa: S603 - a list, no shell
            list(command),
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def tree(process: psutil.Process) -> list[psutil.Process]:
    """The process and all that came from it."""
    with contextlib.suppress(psutil.Error):
        return [process, *process.children(recursive=True)]
    return []


def end(identities: Iterable[Identity], grace_s: float) -> None:
    """Asks each process to end (SIGTERM), waits at most `grace_s`, then kills whatever is left of
    it and of its descendants. Returns when none of them runs."""
    found = [process for identity in identities if (process := identity.find()) is not None]
    everything = {member for process in found for member in tree(process)}
    for process in found:
        with contextlib.suppress(psutil.Error):
            process.terminate()
    deadline = time.monotonic() + grace_s
    psutil.wait_procs(found, timeout=grace_s)
    # A descendant may have been started since; sessions of their own catch those without a parent.
    everything |= {member for process in found for member in tree(process)}
    for process in found:
        everything |= _session(process.pid)
    psutil.wait_procs(everything, timeout=max(0.0, min(1.0, deadline - time.monotonic())))
    for member in everything:
        with contextlib.suppress(psutil.Error):
            member.send_signal(signal.SIGKILL)
    psutil.wait_procs(everything, timeout=KILLED_S)


def _session(leader: int) -> set[psutil.Process]:
    """The processes of the session that `leader` began."""
    members = set()
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, ProcessLookupError, PermissionError):
            if os.getsid(process.pid) == leader:
                members.add(process)
    return members
