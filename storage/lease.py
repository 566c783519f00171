"""A lease on a root that has no operating-system lock: a numbered file, renewed while it is held.

The newest file in `leases/` says who holds the root. Taking it is making the next number
exclusively, so of any number of takers one wins, and nobody ever removes or overwrites a lease
that is not its own; the newest is left in place, marked as released, for the numbers to go on
from. A holder that cannot renew in time, or that finds a newer lease, may write no more.

Clocks of the machines that share a root must agree to well within LEASE_S.
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any

from config.errors import FileMissing, RootLost, StorageError
from storage.root import Root

LEASE_S = 60.0
RENEW_S = 15.0
FOLDER = "leases"


class Lease:
    """One run's claim on a root. `take` until it is held, then work inside `renewed`."""

    def __init__(
        self, root: Root, owner: Mapping[str, object], lease_s: float, renew_s: float
    ) -> None:
        self.lease_s = lease_s
        self._root, self._owner, self._renew_s = root, owner, renew_s
        self._path = ""
        self._at = 0.0
        self._lost = False

    def holder(self) -> dict[str, Any]:
        """Who holds the root, as far as the newest lease says."""
        newest = self._newest()
        return {} if newest is None else self._read(newest)

    def take(self) -> bool:
        """Tries once. Raises StorageError where files cannot be made exclusively."""
        newest = self._newest()
        if newest is not None and self._is_held(self._read(newest)):
            return False
        number = 1 if newest is None else int(newest.rsplit("/", 1)[-1].partition(".")[0]) + 1
        path = f"{FOLDER}/{number:08d}.json"
        if not self._make(path):
            return False
        self._path = path
        for older in self._root.list(FOLDER, ".json"):
            if older < path:
                self._root.remove(older)
        return True

    def _make(self, path: str) -> bool:
        root, now = self._root, time.time()
        if not root.create(path, self._content(now)):
            return False
        if root.create(path, self._content(now)):  # some S3-compatible stores overwrite silently
            raise StorageError(
                f"{root.url}: this store does not keep to a conditional write (If-None-Match), so "
                "two runs could not be kept apart; use one that does, or a local folder"
            )
        self._at = now
        return True

    @contextlib.contextmanager
    def renewed(self) -> Iterator[None]:
        """Keeps the lease while inside; meanwhile the root refuses writes once it is lost."""
        stop = threading.Event()
        renewer = threading.Thread(target=self._renew, args=(stop,), daemon=True)
        self._root.fence = self.check
        renewer.start()
        try:
            yield
        finally:
            stop.set()
            renewer.join()
            self._root.fence = None
            if not self._lost:
                with contextlib.suppress(StorageError):  # it then runs out by itself
                    self._root.put(self._path, self._content(0.0))

    def check(self) -> None:
        """Raises RootLost when another run may hold the root by now."""
        if self._lost or time.time() - self._at >= self.lease_s:
            raise RootLost(
                f"the hold of {self._root.url} could not be renewed for {self.lease_s:g} s, and "
                "another run may have taken it: this one stops. What was done is kept; run again."
            )

    def _renew(self, stop: threading.Event) -> None:
        while not stop.wait(self._renew_s):
            with contextlib.suppress(StorageError):  # a missed renewal is made good by the next
                if self._newest() != self._path:
                    self._lost = True
                    return
                now = time.time()
                self._root.put(self._path, self._content(now))
                self._at = now

    def _content(self, now: float) -> bytes:
        return json.dumps({**self._owner, "renewed": now}).encode()

    def _newest(self) -> str | None:
        return max(self._root.list(FOLDER, ".json"), default=None)

    def _read(self, path: str) -> dict[str, Any]:
        """The lease; one that was made but not written yet counts from when it was made."""
        try:
            found = json.loads(self._root.read_bytes(path))
        except FileMissing:  # a newer one has been made meanwhile: held
            return {"renewed": time.time()}
        except ValueError:
            return {"renewed": self._root.fs.modified(self._root.full(path)).timestamp()}
        return dict(found)

    def _is_held(self, lease: Mapping[str, Any]) -> bool:
        return bool(time.time() - float(lease["renewed"]) < self.lease_s)
