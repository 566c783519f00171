"""One writer a root at a time. A killed writer's hold ends by itself.

A local root is held by an operating-system lock, which dies with its process. Any other root is
held by a lease: a small object, made exclusively, renewed while the run lives, free to take once
it has not been renewed for LEASE_S.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator

from config.errors import RootBusy, StorageError
from storage.root import Root

LEASE_S = 60.0
RENEW_S = 15.0
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
        with _hold_lease(root, owner, wait, say, lease_s, renew_s):
            yield


def _busy_message(root: Root, holder: dict[str, object]) -> str:
    return (
        f"{root.url} is being written by run {holder.get('run', '?')} "
        f"(process {holder.get('pid', '?')} on {holder.get('host', '?')})"
    )


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


@contextlib.contextmanager
def _hold_lease(
    root: Root,
    owner: dict[str, object],
    wait: bool,
    say: Callable[[str], None],
    lease_s: float,
    renew_s: float,
) -> Iterator[None]:
    said = False
    while not _take(root, owner, lease_s):
        holder = root.read_json("lease.json") or {}
        message = _busy_message(root, holder)
        if not wait:
            raise RootBusy(f"{message}. Nothing was done; wait for it, or run with --if-busy wait.")
        if not said:
            say(f"{message}; waiting for it to end. Nothing is computed twice.")
            said = True
        time.sleep(min(POLL_S, lease_s / 4))
    stop = threading.Event()
    renewer = threading.Thread(target=_renew, args=(root, owner, stop, renew_s), daemon=True)
    renewer.start()
    try:
        yield
    finally:
        stop.set()
        renewer.join()
        if (root.read_json("lease.json") or {}).get("nonce") == owner["nonce"]:
            root.remove("lease.json")


def _take(root: Root, owner: dict[str, object], lease_s: float) -> bool:
    holder = root.read_json("lease.json")
    if holder is not None and time.time() - float(holder.get("renewed", 0)) < lease_s:
        return False
    if holder is not None:
        root.remove("lease.json")
    root.fs.makedirs(root.path, exist_ok=True)
    try:
        with root.fs.open(root.full("lease.json"), "xb") as file:
            file.write(json.dumps({**owner, "renewed": time.time()}).encode())
    except FileExistsError:
        return False
    except (ValueError, NotImplementedError) as error:
        raise StorageError(
            f"{root.url}: this filesystem cannot create a file exclusively ({error}), "
            "so two runs could not be kept apart; use a local folder, s3, gcs or abfs"
        ) from error
    return bool((root.read_json("lease.json") or {}).get("nonce") == owner["nonce"])


def _renew(root: Root, owner: dict[str, object], stop: threading.Event, renew_s: float) -> None:
    while not stop.wait(renew_s):
        with contextlib.suppress(StorageError):  # a missed renewal is made good by the next
            root.write_json("lease.json", {**owner, "renewed": time.time()})
