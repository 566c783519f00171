import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from config.errors import StageStopped, TrainingError
from tasks.processes import run_program

PARENT = """
import sys
from tasks.processes import run_program
code = "import os, time; print(os.getpid(), flush=True); time.sleep(600)"
run_program([sys.executable, "-c", code], lambda line: print(line, flush=True), what="it")
"""
POLITE = """
import signal, sys, time
def stop(*_):
    print("wrote a checkpoint", flush=True)
    sys.exit(130)
signal.signal(signal.SIGTERM, stop)
print("ready", flush=True)
time.sleep(600)
"""


def run(code, **more):
    said = []
    run_program([sys.executable, "-c", code], said.append, what="it", **more)
    return said


def test_lines_come_as_they_are_printed_on_either_output():
    code = "import sys; print('a'); print(); print('b', file=sys.stderr)"
    assert sorted(run(code)) == ["a", "b"]


def test_the_environment_is_added():
    code = "import os; print(os.environ['CUDA_VISIBLE_DEVICES'], os.environ['PATH'] != '')"
    assert run(code, environment={"CUDA_VISIBLE_DEVICES": "3"}) == ["3 True"]


@pytest.mark.parametrize(("code", "kind"), [(130, StageStopped), (1, TrainingError)])
def test_the_program_s_last_words_are_the_error(code, kind):
    with pytest.raises(kind, match="loss is nan"):
        run(f"import sys; print('loss is nan'); sys.exit({code})")


def test_a_flow_that_is_told_to_stop_waits_for_the_program_s_own_end():
    said = []

    class Told(BaseException):
        pass

    def say(line):
        said.append(line)
        if line == "ready":
            raise Told

    with pytest.raises(Told):
        run_program([sys.executable, "-c", POLITE], say, what="it")
    assert said == ["ready", "wrote a checkpoint"]


def test_no_program_outlives_a_killed_flow():
    parent = subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True)
    child = int(parent.stdout.readline())
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    deadline = time.monotonic() + 30
    while psutil.pid_exists(child) and psutil.Process(child).status() != "zombie":
        assert time.monotonic() < deadline, "the program goes on without its flow"
        time.sleep(0.05)
