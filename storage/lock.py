"""One writer a root at a time. A killed writer's hold ends by itself.

A local root is held by an operating-system lock, which dies with its process. Any other root is
held by a lease (`storage/lease.py`).
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
import time
import uuid
from collections.abc import Callable, Iterator

from config.errors import RootBusy
from storage.lease import LEASE_S, RENEW_S, Lease
from storage.root import Root

POLL_S = 0.5


@contextlib.contextmanager
def hold(
    root: Root,
    run_id: str,
    *,
    wait: bool,
    say: Callable[[str], None],
    lease_s: float = LEASE_S,
    renew_s: float = RENEW_S,
) -> Iterator[None]:
    """Holds the root for writing.

    Busy: with `wait`, says who holds it once and waits; without, raises RootBusy.
    """
    owner = {
        "run": run_id,
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "nonce": uuid.uuid4().hex,
    }
    if root.is_local:
        with _hold_local(root, owner, wait, say):
            yield
    else:
        lease = Lease(root, owner, lease_s, renew_s)
        _wait_for(lease, root, wait, say)
        with lease.renewed():
            yield


def _busy_message(root: Root, holder: dict[str, object]) -> str:
    return (
        f"{root.url} is being written by run {holder.get('run', '?')} "
        f"(process {holder.get('pid', '?')} on {holder.get('host', '?')})"
    )


def _wait_for(lease: Lease, root: Root, wait: bool, say: Callable[[str], None]) -> None:
    said = False
    while not lease.take():
        message = _busy_message(root, lease.holder())
        if not wait:
            raise RootBusy(f"{message}. Nothing was done; wait for it, or run with --if-busy wait.")
        if not said:
            say(f"{message}; waiting for it to end. Nothing is computed twice.")
            said = True
        time.sleep(min(POLL_S, lease.lease_s / 4))


@contextlib.contextmanager
def _hold_local(
    root: Root, owner: dict[str, object], wait: bool, say: Callable[[str], None]
) -> Iterator[None]:
    os.makedirs(root.path, exist_ok=True)
    descriptor = os.open(root.full(".lock"), os.O_RDWR | os.O_CREAT, 0o644)
    try:
        _lock(descriptor, root, wait, say)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(owner).encode(), 0)
        yield
    finally:
        os.close(descriptor)  # closing gives the lock back


def _lock(descriptor: int, root: Root, wait: bool, say: Callable[[str], None]) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return
    except BlockingIOError:
        message = _busy_message(root, _parse(os.pread(descriptor, 4096, 0)))
    if not wait:
        raise RootBusy(f"{message}. Nothing was done; wait for it, or run with --if-busy wait.")
    say(f"{message}; waiting for it to end. Nothing is computed twice.")
    while True:  # polled, so that Ctrl-C and a flow's cancellation get through
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            time.sleep(POLL_S)


def _parse(data: bytes) -> dict[str, object]:
    try:
        found = json.loads(data)
    except json.JSONDecodeError:
        return {}
    return found if isinstance(found, dict) else {}
