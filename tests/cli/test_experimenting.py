import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from cli import experimenting
from cli.main import app
from experiments.__main__ import arguments


@pytest.fixture
def started(monkeypatch):
    """What would be started; `ended` is the exit code it ends with."""

    class Started:
        ended = 0
        command = None

        def __call__(self, command, check):
            self.command = command
            return subprocess.CompletedProcess(command, self.ended)

    found = Started()
    monkeypatch.setattr(experimenting.subprocess, "run", found)
    return found


def test_what_the_command_passes_on_is_what_the_experiment_takes(started):
    told = ["experiment", "--out", "there", "--jobs", "3", "--seeds", "4"]
    assert CliRunner().invoke(app, told).exit_code == 0
    assert started.command[:3] == [sys.executable, "-m", "experiments"]
    options = arguments(started.command[3:])
    assert (options.out, options.jobs, options.seeds) == (Path("there"), 3, 4)


def test_the_experiments_failure_is_the_commands(started):
    started.ended = 7
    with pytest.raises(typer.Exit) as ended:
        experimenting.run([])
    assert ended.value.exit_code == 7
