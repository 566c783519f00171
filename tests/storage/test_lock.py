import json
import signal
import subprocess
import sys
import threading
import time
import uuid

import pytest

from config.errors import RootBusy
from storage.lock import hold
from storage.root import Root

HOLDER = """
import sys, time
from storage.lock import hold
from storage.root import Root
with hold(Root(sys.argv[1]), "holder", wait=False, say=print):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture(params=["local", "memory"])
def root(request, tmp_path):
    if request.param == "local":
        return Root(tmp_path / "set")
    return Root(f"memory://lock-{uuid.uuid4().hex}")


def test_the_second_is_refused_and_told_who_holds_the_root(root):
    with (
        hold(root, "first", wait=False, say=print),
        pytest.raises(RootBusy, match=r"is being written by run first \(process \d+ on "),
        hold(root, "second", wait=False, say=print),
    ):
        pass
    with hold(root, "third", wait=False, say=print):
        pass


def test_the_second_waits_says_so_once_and_then_goes_on(root):
    said: list[str] = []
    order: list[str] = []
    told = threading.Event()

    def say(message):
        said.append(message)
        told.set()

    def second():
        with hold(root, "second", wait=True, say=say):
            order.append("second")

    with hold(root, "first", wait=False, say=print):
        thread = threading.Thread(target=second)
        thread.start()
        assert told.wait(30)
        order.append("first")
    thread.join(30)
    assert order == ["first", "second"]
    assert len(said) == 1
    assert "run first" in said[0]
    assert "waiting" in said[0]


def test_a_killed_holder_holds_nothing(tmp_path):
    root = Root(tmp_path / "set")
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, root.url], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout.readline().strip() == "held"
        with (
            pytest.raises(RootBusy, match="run holder"),
            hold(root, "second", wait=False, say=print),
        ):
            pass
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    with hold(root, "third", wait=False, say=print):
        pass


def test_a_lease_that_is_not_renewed_is_free_to_take():
    root = Root(f"memory://lock-{uuid.uuid4().hex}")
    dead = {"run": "dead", "host": "h", "pid": 1, "nonce": "n", "renewed": time.time() - 61}
    root.write_json("lease.json", dead)
    with hold(root, "next", wait=False, say=print):
        assert root.read_json("lease.json")["run"] == "next"
    assert root.read_json("lease.json") is None


def test_a_lease_is_renewed_while_it_is_held():
    root = Root(f"memory://lock-{uuid.uuid4().hex}")
    with hold(root, "run", wait=False, say=print, renew_s=0.01):
        first = root.read_json("lease.json")["renewed"]
        deadline = time.monotonic() + 30
        while root.read_json("lease.json")["renewed"] == first:
            assert time.monotonic() < deadline
        assert json.dumps(root.read_json("lease.json"))
