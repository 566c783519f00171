import json
import subprocess
import sys

import pytest

from config.errors import StorageError
from storage import members as members_module
from storage.members import Members
from storage.root import Root


class Clock:
    now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture(params=["local", "memory"])
def root(request, tmp_path):
    return Root(tmp_path if request.param == "local" else f"memory://{tmp_path.name}")


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def elsewhere(monkeypatch):
    """Members of other machines: nobody sees whether their processes live."""
    monkeypatch.setattr(members_module, "_machine", lambda: "")


def member(root, clock, **options):
    made = Members(root, "endpoint", {"concurrency": 8}, clock=clock, **options)
    made.join()
    return made


def test_members_see_each_other_and_whom_each_has_counted(root, clock):
    a, b = member(root, clock), member(root, clock)
    assert a.renew(frozenset({a.me, b.me}))
    [(name, seen)] = b.look().items()
    assert name == a.me
    assert (seen.limits, seen.counted) == ({"concurrency": 8}, {a.me, b.me})
    assert a.look()[b.me].counted == {b.me}
    b.leave()
    assert a.look() == {}


def test_a_file_that_stays_as_it_is_is_dead_after_its_lease(root, clock, elsewhere):
    a, b = member(root, clock), member(root, clock)
    assert a.look()
    clock.now += 19.9
    assert a.look()
    clock.now += 0.1
    assert a.look() == {}
    assert root.list("endpoint", ".json") == [f"endpoint/{a.me}.json"]
    assert not b.renew(frozenset({b.me}))


def test_a_file_that_is_renewed_lives_on(root, clock, elsewhere):
    a, b = member(root, clock), member(root, clock)
    for _ in range(10):
        a.look()
        clock.now += 10.0
        assert b.renew(frozenset({b.me}))
    assert set(a.look()) == {b.me}


def test_who_comes_back_too_late_is_another_member(root, clock, elsewhere):
    a = member(root, clock)
    before = a.me
    assert a.until == clock.now + 15.0  # it trusts its file for less than others do
    clock.now = a.until
    assert not a.renew(frozenset({a.me}))
    a.join()
    assert a.me != before
    assert root.list("endpoint", ".json") == [f"endpoint/{a.me}.json"]


def test_who_finds_its_file_gone_is_another_member_whatever_its_clock_says(root, clock):
    a = member(root, clock)
    root.remove(f"endpoint/{a.me}.json")
    a.look()
    assert not a.renew(frozenset({a.me}))


def test_a_renewal_that_took_too_long_counts_as_too_late(root, clock, monkeypatch):
    a = member(root, clock)
    clock.now += 14.0
    whole = Root.put

    def slow(self, relative, data):
        whole(self, relative, data)
        clock.now += 2.0

    monkeypatch.setattr(Root, "put", slow)
    assert not a.renew(frozenset({a.me}))


def test_a_killed_process_of_this_machine_is_gone_at_once(root, clock):
    a, b = member(root, clock), member(root, clock)
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    path = f"endpoint/{b.me}.json"
    root.write_json(path, {**root.read_json(path), "pid": ended.pid})
    assert a.look() == {}
    assert not root.exists(path)


def test_the_process_number_of_another_machine_says_nothing(root, clock):
    a = member(root, clock)
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    root.write_json("endpoint/other.json", {"machine": "other", "pid": ended.pid})
    assert set(a.look()) == {"other"}


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"pid": "x", "counted": null}'])
def test_a_file_that_says_nothing_counts_until_its_lease_ends(root, clock, content):
    a = member(root, clock)
    root.write_bytes("endpoint/odd.json", content)
    assert a.look()["odd"].counted == frozenset()
    clock.now += 20.0
    assert a.look() == {}


def test_a_folder_that_cannot_be_written_is_told(tmp_path, clock):
    (tmp_path / "file").write_text("in its way")
    with pytest.raises(StorageError, match="cannot write"):
        member(Root(tmp_path / "file"), clock)


def test_a_file_holds_no_more_than_it_must(tmp_path, clock):
    a = member(Root(tmp_path), clock)
    found = json.loads((tmp_path / "endpoint" / f"{a.me}.json").read_text())
    assert set(found) == {"host", "machine", "pid", "beat", "limits", "counted"}
