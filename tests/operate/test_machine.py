"""Runs on a machine that `vispref up` keeps running, and what dies on it."""

import asyncio
import os
import shlex
import signal
import sqlite3
import sys

import pytest
import yaml
from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, temporary_settings

from operate.probes import served_models
from operate.supervisor import Unhealthy
from tests.operate.machine_helpers import Machine, free_port, until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]  # on a machine that others use too
PASSWORD = "me:secret"
MODELS = "captioner-reference-claims"


@pytest.fixture(scope="module")
def machine(world, tmp_path_factory):
    """One model server for three roles, a password, and all of Prefect."""
    port = free_port()
    serve = [sys.executable, "-m", "miniature.server", "--port", str(port), "--latency-ms", "300"]
    serve += ["--annotations", str(world / "annotations.jsonl")]
    environment = {"PREFECT_SERVER_API_AUTH_STRING": PASSWORD}
    for role in ("CAPTIONER", "REFERENCE", "CLAIMS"):
        environment[f"VISPREF_{role}__BASE_URL"] = f"http://127.0.0.1:{port}/v1"
        environment[f"VISPREF_{role}__SERVE_COMMAND"] = shlex.join(serve)
        environment[f"VISPREF_{role}__CONCURRENCY"] = "4"
    made = Machine(tmp_path_factory.mktemp("machine"), **environment)
    made.models = f"http://127.0.0.1:{port}/v1"
    made.up()
    yield made
    made.command("down")


@pytest.fixture
def parameters(world, make_recipe, tmp_path):
    return {
        "root": str(tmp_path / "set"),
        "recipe": make_recipe().model_dump(mode="json"),
        "source": {"location": str(world / "prompts.jsonl")},
        "train_after": {"start": False},
    }


def asked(machine, ask):
    """What `ask(client)` gives, of the machine's Prefect server."""

    async def run():
        async with get_client() as client:
            return await ask(client)

    updates = {PREFECT_API_URL: machine.api, PREFECT_API_AUTH_STRING: PASSWORD}
    with temporary_settings(updates=updates):
        return asyncio.run(run())


def begin(machine, parameters):
    async def ask(client):
        deployment = await client.read_deployment_by_name("build-dataset/symmpo")
        return await client.create_flow_run_from_deployment(deployment.id, parameters=parameters)

    return asked(machine, ask).id


def state_of(machine, run):
    return asked(machine, lambda client: client.read_flow_run(run)).state


def killed(machine, name):
    """Kills a program of the machine and waits until it is ready again."""
    before = machine.program(name)
    os.kill(before["pid"], signal.SIGKILL)
    return until(
        lambda: (
            (now := machine.program(name))["phase"] == "ready"
            and now["starts"] == before["starts"] + 1
            and now
        ),
        f"{name} runs again",
    )


def answers(url):
    try:
        return served_models(url)
    except Unhealthy:
        return []


def test_a_run_of_a_deployment_is_completed(machine, parameters):
    run = begin(machine, parameters)
    until(lambda: state_of(machine, run).is_final(), "the run ends")
    assert state_of(machine, run).is_completed()


def test_the_server_asks_for_its_password(machine):
    wrong = Machine(machine.state.parent)
    wrong.environment["PREFECT_API_URL"] = machine.api
    doctor = wrong.command("doctor")
    assert doctor.returncode == 1
    assert "PREFECT_API_AUTH_STRING" in doctor.stdout


def test_the_doctor_finds_the_models_of_a_recipe_or_misses_them(machine, make_recipe, tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(make_recipe().model_dump(mode="json")))
    good = machine.command("doctor", "--recipe", recipe)
    assert good.returncode == 0, good.stdout + good.stderr
    assert "serves stand-in-claims" in good.stdout
    assert "as they stand there" in good.stdout
    assert "worker vispref-gpu" in good.stdout
    bad = machine.command("doctor", "--recipe", "symmpo")
    assert bad.returncode == 1
    assert "not Qwen/Qwen2.5-VL-32B-Instruct" in bad.stdout
    assert "secret" not in bad.stdout + bad.stderr


def test_a_second_up_in_the_folder_is_refused(machine):
    done = machine.command("up", "--port", free_port())
    assert done.returncode == 1
    assert "vispref down" in done.stderr


def test_a_killed_worker_comes_back(machine):
    assert "killed by signal 9" not in killed(machine, "worker-gpu")["message"]


def test_a_killed_model_server_comes_back(machine):
    killed(machine, MODELS)
    assert answers(machine.models)


def test_a_killed_server_comes_back_and_a_run_after_it_is_completed(machine, parameters):
    killed(machine, "prefect-server")
    run = begin(machine, parameters)
    until(lambda: state_of(machine, run).is_final(), "the run ends")
    assert state_of(machine, run).is_completed()


def test_down_leaves_no_process_and_no_run_that_seems_to_run(machine, parameters):
    run = begin(machine, parameters)
    until(lambda: state_of(machine, run).is_running(), "the run has begun")
    down = machine.command("down")
    assert down.returncode == 0, down.stdout + down.stderr
    assert machine.processes() == []
    assert answers(machine.models) == []
    database = sqlite3.connect(machine.state / "prefect" / "prefect.db")
    (kind,) = database.execute(
        "SELECT state_type FROM flow_run WHERE id = ?", [str(run)]
    ).fetchone()
    assert kind in ("CRASHED", "FAILED")


def test_what_a_killed_up_left_is_stopped_by_down(tmp_path):
    machine = Machine(tmp_path)
    machine.up()
    os.kill(machine.read()["pid"], signal.SIGKILL)
    assert len(machine.processes()) >= 3
    down = machine.command("down")
    assert "stopped 3 programs" in down.stdout
    assert machine.processes() == []
