import os
import subprocess
import sys

import pytest

from config.errors import RecipeError
from tasks.gpus import NO_GPU, lent, visible_gpus

HOLDER = """
import sys
from pathlib import Path
from tasks.gpus import lent
with lent(int(sys.argv[1]), tuple(sys.argv[3].split(",")), Path(sys.argv[2]), print) as found:
    print("holds", *found.gpus, flush=True)
    sys.stdin.read()
"""


def holder(folder, count, gpus):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(count), str(folder), ",".join(gpus)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    return process, process.stdout.readline().split()


def refuse(_):
    raise AssertionError("nobody holds it: nothing to wait for")


def test_each_run_gets_gpus_of_its_own(tmp_path):
    process, said = holder(tmp_path, 1, ("0", "1", "2"))
    assert said == ["holds", "0"]
    with lent(2, ("0", "1", "2"), tmp_path, print, refuse) as found:
        assert found.gpus == ("1", "2")
        assert found.environment == {"CUDA_VISIBLE_DEVICES": "1,2"}
    process.communicate()


def test_a_run_waits_for_all_of_its_gpus_and_a_killed_holder_gives_them_back(tmp_path):
    process, _ = holder(tmp_path, 1, ("0", "1"))
    said = []

    def killed(_):
        process.kill()
        process.wait()

    with lent(2, ("0", "1"), tmp_path, said.append, killed) as found:
        assert found.gpus == ("0", "1")
    assert said == ["all GPUs are in use by other trainings; waiting for 2"]


def test_a_program_keeps_the_gpu_when_its_flow_is_gone(tmp_path):
    with lent(1, ("0",), tmp_path, print, refuse) as found:
        program = subprocess.Popen(
            [sys.executable, "-c", "import sys; sys.stdin.read()"],
            stdin=subprocess.PIPE, pass_fds=found.locks,
        )  # fmt: skip
    waits = []

    def ended(_):
        waits.append(1)
        program.communicate()

    with lent(1, ("0",), tmp_path, print, ended):
        assert waits == [1]


def test_more_gpus_than_there_are_is_refused(tmp_path):
    with (
        pytest.raises(RecipeError, match="asks for 3 processes and this machine lends 2"),
        lent(3, ("0", "1"), tmp_path, print, refuse),
    ):
        pass


def test_a_machine_without_a_gpu_lends_itself_whatever_is_asked(tmp_path):
    with lent(4, (NO_GPU,), tmp_path, print, refuse) as found:
        assert found.environment == {}
        assert len(found.locks) == 1


def test_cuda_visible_devices_says_which_may_be_lent(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2, 5")
    assert visible_gpus() == ("2", "5")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert visible_gpus() == (NO_GPU,)


def test_the_driver_s_tool_is_asked(monkeypatch, tmp_path):
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\nprintf '0\\n1\\n'\n")
    tool.chmod(0o755)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert visible_gpus() == ("0", "1")
