"""Who calls an endpoint now: one small file for each process that has calls under way there.

Like a lease (`storage/lease.py`), a file is renewed while its process lives, and one that has not
changed for LEASE_S is dead. No clocks are compared: each process looks by its own how long a file
stays as it is, and holds its own file for valid for less than that. Of a process on the same
machine it is also seen at once that it is gone.

A file lists the members that its process has taken into account, which is what makes shares of a
limit strict (`models/sharing.py`).
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from config.errors import FileMissing, StorageError
from storage.root import Root

LEASE_S = 20.0
# A member trusts its own file for this much less: clocks run at different speeds, and between a
# look at the clock and the wire there is some code.
MARGIN_S = 5.0


@dataclass(frozen=True)
class Member:
    """`limits` are those its process was given, `counted` whom it has taken into account."""

    limits: Mapping[str, Any]
    counted: frozenset[str]


class Members:
    """One process's file among the others of one endpoint. Used by one thread at a time.

    Raises StorageError where the folder cannot be read or written.
    """

    def __init__(
        self,
        root: Root,
        folder: str,
        limits: Mapping[str, Any],
        *,
        lease_s: float = LEASE_S,
        margin_s: float = MARGIN_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.me = _new_name()
        self.until = float("-inf")  # by the clock; the process must send nothing after it
        self.counted: frozenset[str] = frozenset()
        self._root, self._folder, self._limits = root, folder, dict(limits)
        self._lease_s, self._valid_s, self._clock = lease_s, lease_s - margin_s, clock
        self._machine = _machine()
        self._beat = 0
        self._seen: dict[str, tuple[bytes, float]] = {}

    def join(self) -> None:
        """Makes a file of a new name; a member that comes back too late is another one."""
        self.leave()
        self.me = _new_name()
        self._write(frozenset({self.me}))

    def renew(self, counted: frozenset[str]) -> bool:
        """Renews the file. False where that came too late: others may not count this one any more,
        and it must join again."""
        until = self.until
        if self._clock() >= until:
            return False
        self._write(counted)
        return self._clock() < until

    def leave(self) -> None:
        """Removes the file; one that cannot be removed runs out by itself."""
        self.until = float("-inf")
        with contextlib.suppress(StorageError):
            self._root.remove(self._path(self.me))

    def look(self) -> dict[str, Member]:
        """The other live members. Files of dead ones are removed."""
        now = self._clock()  # before anything is read: this process may be held up while it does
        found, seen = {}, {}
        names = [path.rsplit("/", 1)[-1].removesuffix(".json") for path in self._list()]
        if self.me not in names:  # others have counted it out: a machine that slept, for instance
            self.until = float("-inf")
        for name in names:
            if name == self.me:
                continue
            path = self._path(name)
            try:
                content = self._root.read_bytes(path)
            except FileMissing:  # it has left since
                continue
            before, since = self._seen.get(name, (content, now))
            seen[name] = (content, since if before == content else now)
            fields = _fields(content)
            if now - seen[name][1] >= self._lease_s or self._is_gone(fields):
                with contextlib.suppress(StorageError):  # the next look tries again
                    self._root.remove(path)
                continue
            counted = frozenset(map(str, fields.get("counted") or ()))
            found[name] = Member(fields.get("limits") or {}, counted)
        self._seen = seen
        return found

    def _list(self) -> list[str]:
        try:
            return self._root.list(self._folder, ".json")
        except OSError as error:
            url = self._root.url_of(self._folder)
            raise StorageError(f"cannot list {url}: {error}") from error

    def _write(self, counted: frozenset[str]) -> None:
        began = self._clock()
        self._beat += 1
        self._root.write_json(self._path(self.me), {
            "host": socket.gethostname(),
            "machine": self._machine,
            "pid": os.getpid(),
            "beat": self._beat,
            "limits": self._limits,
            "counted": sorted(counted),
        })  # fmt: skip
        self.counted, self.until = counted, began + self._valid_s

    def _path(self, name: str) -> str:
        return f"{self._folder}/{name}.json"

    def _is_gone(self, fields: Mapping[str, Any]) -> bool:
        """Whether it is a process of this machine that has ended."""
        pid = fields.get("pid")
        if not self._machine or fields.get("machine") != self._machine:
            return False
        if not isinstance(pid, int) or pid <= 0:
            return False
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        except OSError:
            return False  # another user's
        return False


def _new_name() -> str:
    return f"{os.getpid()}-{uuid.uuid4().hex[:12]}"


def _fields(content: bytes) -> dict[str, Any]:
    """What a file says. One that is no JSON says nothing, and is dead once it stays like that."""
    try:
        found = json.loads(content)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _machine() -> str:
    """Where a process id means one process: this boot, and this namespace of processes.

    Empty where the system does not say: then files run out, and nothing else tells.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""
