import signal
import subprocess
import sys
import threading
import time
import uuid

import pytest

from config.errors import RootBusy, RootLost
from storage.lease import Lease
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


def memory_root():
    return Root(f"memory://lock-{uuid.uuid4().hex}")


def lease_of(root):
    return root.read_json(max(root.list("leases")))


def put_lease(root, run, renewed):
    content = {"run": run, "host": "h", "pid": 1, "nonce": run, "renewed": renewed}
    root.write_json("leases/00000007.json", content)


def test_a_lease_that_is_not_renewed_is_free_to_take():
    root = memory_root()
    put_lease(root, "dead", time.time() - 61)
    with hold(root, "next", wait=False, say=print):
        assert lease_of(root)["run"] == "next"
    with hold(root, "after", wait=False, say=print):
        assert lease_of(root)["run"] == "after"


def test_a_lease_is_renewed_while_it_is_held():
    root = memory_root()
    with hold(root, "run", wait=False, say=print, renew_s=0.01):
        first = lease_of(root)["renewed"]
        deadline = time.monotonic() + 30
        while lease_of(root)["renewed"] == first:
            assert time.monotonic() < deadline


def test_of_two_that_find_the_same_dead_lease_one_takes_it(monkeypatch):
    root = memory_root()
    put_lease(root, "dead", time.time() - 61)
    slow, quick = (Lease(root, {"run": name}, 60, 15) for name in ("slow", "quick"))
    make = slow._make

    def overtaken(path):  # what the other does between the look and the taking
        assert quick.take()
        return make(path)

    monkeypatch.setattr(slow, "_make", overtaken)
    assert not slow.take()
    assert lease_of(root)["run"] == "quick"
    assert not slow.take()


def test_a_holder_whose_lease_another_took_may_not_write_and_leaves_it_alone():
    root = memory_root()
    other = Root(root.url)
    with (
        hold(root, "stalled", wait=False, say=print, lease_s=0.2, renew_s=600),
        hold(other, "next", wait=True, say=lambda text: None, lease_s=0.2),
    ):
        other.put("a", b"next")
        with pytest.raises(RootLost, match="another run may have taken it"):
            root.write_bytes("a", b"stalled")
        with pytest.raises(RootLost):
            root.remove("a")
        assert root.read_bytes("a") == b"next"
        assert lease_of(root)["run"] == "next"


def test_a_lease_made_and_not_yet_written_holds():
    root = memory_root()
    root.put("leases/00000001.json", b"")
    with pytest.raises(RootBusy), hold(root, "second", wait=False, say=print):
        pass
