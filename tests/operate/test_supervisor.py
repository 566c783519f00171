"""Real programs, started, killed, made sick and ended."""

import os
import signal
import sys
import time

import psutil
import pytest

from operate.processes import Identity, end, start
from operate.restarts import RestartPolicy
from operate.supervisor import Keeper, Program, Unhealthy

PATIENCE_S = 30
QUICK = RestartPolicy(first_s=0.05, longest_s=0.1, most=3, window_s=600)
# Starts a child, in a session of its own as some servers do, and waits.
PARENT = """
import signal, subprocess, sys, time
child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'], {session})
{trap}
print(child.pid, flush=True)
while True:
    time.sleep(1)
"""
# Its child starts a program and ends: nobody's child, but of the same session.
GRANDPARENT = """
import subprocess, sys, time
code = "import subprocess, sys; print(subprocess.Popen([sys.executable, '-c', " \\
    "'import time; time.sleep(600)']).pid, flush=True)"
subprocess.run([sys.executable, '-c', code])
time.sleep(600)
"""


def python(code):
    return (sys.executable, "-u", "-c", code)


def until(condition, what):
    deadline = time.monotonic() + PATIENCE_S
    while not (found := condition()):
        assert time.monotonic() < deadline, f"not within {PATIENCE_S} s: {what}"
        time.sleep(0.02)
    return found


@pytest.fixture
def keep(tmp_path):
    """keep(command, **program) -> (keeper, the statuses it told)."""
    keepers = []

    def make(command, **options):
        told = []
        options = {"policy": QUICK, "grace_s": 5.0, "every_s": 0.05, "failures": 3, **options}
        program = Program("program", tuple(command), dict(os.environ), **options)
        keeper = Keeper(program, tmp_path / "logs" / "program.log", told.append)
        keepers.append(keeper)
        keeper.start()
        return keeper, told

    yield make
    for keeper in keepers:
        keeper.stop()


def phases(told):
    return [status.phase for status in told]


def running(told):
    return told and told[-1].phase == "ready" and told[-1].identity


def test_a_program_is_started_and_its_output_kept(keep):
    _, told = keep(python("print('hello'); import time; time.sleep(600)"))
    identity = until(lambda: running(told), "ready")
    assert identity.find() is not None
    assert phases(told) == ["starting", "ready"]


def test_a_killed_program_is_started_again(keep):
    _, told = keep(python("import time; time.sleep(600)"))
    first = until(lambda: running(told), "ready")
    os.kill(first.pid, signal.SIGKILL)
    second = until(lambda: running(told) and told[-1].starts == 2 and told[-1].identity, "again")
    assert second != first
    assert any("killed by signal 9" in status.message for status in told)


def test_one_that_keeps_dying_is_given_up_and_says_so(keep):
    keeper, told = keep(python("import sys; sys.exit(7)"))
    until(lambda: phases(told)[-1:] == ["gave up"], "given up")
    assert told[-1].starts == QUICK.most + 1
    assert "ended with code 7" in told[-1].message
    assert str(keeper.log) in told[-1].message


def test_one_that_cannot_be_started_is_given_up(keep):
    _, told = keep(["/nonexistent/program"])
    until(lambda: phases(told)[-1:] == ["gave up"], "given up")
    assert "cannot be started: No such file" in told[-1].message


def test_one_that_no_longer_answers_is_started_again(keep, tmp_path):
    sick = tmp_path / "sick"

    def probe():
        if sick.exists():
            raise Unhealthy("it is ill")

    _, told = keep(python("import time; time.sleep(600)"), probe=probe)
    first = until(lambda: running(told), "ready")
    sick.touch()
    until(lambda: "waiting" in phases(told), "taken for dead")
    sick.unlink()
    until(lambda: running(told) and told[-1].identity != first, "well again")
    assert first.find() is None
    assert any("did not answer 3 times in a row: it is ill" in s.message for s in told)


def test_a_probe_that_fails_once_changes_nothing(keep):
    answers = [True, True, False, True, False, True]

    def probe():
        if answers and not answers.pop(0):
            raise Unhealthy("a moment")

    _, told = keep(python("import time; time.sleep(600)"), probe=probe, failures=2)
    until(lambda: not answers, "all probes made")
    assert phases(told) == ["starting", "ready"]


def test_one_that_is_never_ready_is_started_again(keep):
    def probe():
        raise Unhealthy("no port yet")

    _, told = keep(python("import time; time.sleep(600)"), probe=probe, patience_s=0.3)
    until(lambda: "waiting" in phases(told), "patience ended")
    assert any("was not ready in 0.3 s: no port yet" in status.message for status in told)


@pytest.mark.parametrize("session", ["", "start_new_session=True"])
@pytest.mark.parametrize("trap", ["", "signal.signal(signal.SIGTERM, lambda *_: 0)"])
def test_nothing_is_left_of_a_stopped_program(keep, session, trap):
    keeper, told = keep(python(PARENT.format(session=session, trap=trap)), grace_s=0.5)
    identity = until(lambda: running(told), "ready")
    words = until(lambda: keeper.log.exists() and keeper.log.read_text().split(), "its child")
    child = Identity.of(int(words[0]))
    keeper.stop()
    assert identity.find() is None
    assert child.find() is None
    assert phases(told)[-1] == "stopped"


def test_a_descendant_whose_parent_died_is_found_by_its_session(tmp_path):
    process = start(python(GRANDPARENT), os.environ, tmp_path / "log")
    child = int(until(lambda: (tmp_path / "log").read_text().split(), "its descendant")[0])
    until(lambda: psutil.Process(child).ppid() != process.pid, "without its parent")
    leader, orphan = Identity.of(process.pid), Identity.of(child)
    end([leader], 5.0)
    process.wait()
    assert orphan.find() is None


def test_another_process_with_the_same_number_is_left_alone():
    mine = Identity.of(os.getpid())
    other = Identity(mine.pid, mine.created - 100)
    assert other.find() is None
    end([other], 1.0)
    assert psutil.Process(mine.pid).is_running()


def test_a_long_log_is_set_aside_at_the_next_start(tmp_path, monkeypatch):
    monkeypatch.setattr("operate.processes.LOG_LIMIT", 10)
    log = tmp_path / "log"
    log.write_text("x" * 11)
    start(python("print('new')"), os.environ, log).wait()
    assert log.read_text() == "new\n"
    assert (tmp_path / "log.old").read_text() == "x" * 11
