"""Prefect's own Cancel and Retry, a killed run, and a reader of the tables while a run writes."""

import os
import signal

import duckdb
import pytest

from miniature.annotations import load_annotations
from miniature.server import StandInServer
from tests.operate.machine_helpers import Machine, until
from tests.operate.ui_helpers import Ui, small_recipe

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
IN_FLIGHT = 4


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    from miniature.scenes import write_world

    folder = tmp_path_factory.mktemp("interrupted")
    write_world(folder, 24, seed=4)
    return folder


@pytest.fixture(scope="module")
def server(world):
    with StandInServer(load_annotations(world / "annotations.jsonl"), latency_ms=700) as found:
        yield found


@pytest.fixture(scope="module")
def machine(tmp_path_factory, server):
    folder = tmp_path_factory.mktemp("machine")
    roles = {}
    for role in ("CAPTIONER", "REFERENCE", "CLAIMS"):
        roles[f"VISPREF_{role}__BASE_URL"] = server.base_url
        roles[f"VISPREF_{role}__CONCURRENCY"] = str(IN_FLIGHT)
    made = Machine(folder, **roles)
    made.folder = folder
    made.up()
    yield made
    made.command("down")


@pytest.fixture(scope="module")
def ui(machine):
    return Ui(machine.api)


@pytest.fixture
def started(ui, machine, server, world, checkpoints, request):
    """A run in the middle of its calls: (run, root, calls before it)."""
    root = machine.folder / request.node.name
    before = server.stats()
    # Another seed and a longest answer of its own: the cache holds none of its calls.
    length = 500 + sum(map(ord, request.node.name)) % 97
    recipe = small_recipe(checkpoints) | {"seed": length}
    for stage in ("caption", "resample", "extract", "rewrite"):
        recipe[stage] = {**recipe[stage], "max_tokens": length}
    run = ui.trigger("build-dataset/symmpo", {
        "root": str(root), "source": {"location": str(world / "prompts.jsonl")}, "recipe": recipe,
        "train_after": {"start": False},
    })  # fmt: skip
    until(lambda: server.stats()["calls"] - before["calls"] > 30, "the run asks", 240)
    return run, root, before


def kept(root):
    """Captions and answers that the root has, as any client of DuckDB sees them."""
    with duckdb.connect(str(root / "catalog.duckdb"), read_only=True) as client:
        sql = "SELECT (SELECT count(*) FROM captions), (SELECT count(*) FROM answers)"
        return sum(client.execute(sql).fetchone())


def test_a_cancelled_run_keeps_every_answer_and_retry_asks_none_again(ui, server, started):
    run, root, before = started
    assert kept(root) > 0  # the catalogue opens while the run writes
    ui.cancel(run)
    assert ui.ended(run)["state_type"] == "CANCELLED"
    assert kept(root) == server.stats()["calls"] - before["calls"]
    ui.retry(run)
    until(lambda: ui.get(f"/flow_runs/{run}")["state_type"] == "COMPLETED", "it completes", 240)
    after = server.stats()
    assert after["calls"] - before["calls"] == after["distinct"] - before["distinct"]


def test_a_killed_run_is_crashed_at_once_and_retry_loses_what_was_on_the_wire_alone(
    ui, machine, server, started
):
    run, _, before = started
    [process] = [p for p in machine.processes() if "prefect.engine" in " ".join(p.cmdline())]
    os.kill(process.pid, signal.SIGKILL)
    assert ui.ended(run)["state_type"] == "CRASHED"

    def completed():
        state = ui.get(f"/flow_runs/{run}")["state_type"]
        if state == "CRASHED":  # the worker reports it twice, and may undo a quick Retry
            ui.retry(run)
        return state == "COMPLETED"

    until(completed, "it completes", 240)
    after = server.stats()
    twice = (after["calls"] - before["calls"]) - (after["distinct"] - before["distinct"])
    assert 0 <= twice <= IN_FLIGHT
