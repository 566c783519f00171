"""`vispref up` and `down` with real processes, on a port and in a folder of their own."""

import pytest

from tests.operate.machine_helpers import Machine


@pytest.fixture
def machine(tmp_path):
    made = Machine(tmp_path)
    yield made
    made.command("down")


def test_up_and_down(machine):
    said = machine.up()
    assert f"The UI: http://127.0.0.1:{machine.port}" in said
    assert set(machine.read()["programs"]) == {"prefect-server", "worker-cpu", "worker-gpu"}

    down = machine.command("down")
    assert down.returncode == 0, down.stdout + down.stderr
    assert machine.processes() == []

    again = machine.command("down")
    assert again.returncode == 0
    assert "nothing runs" in again.stdout
