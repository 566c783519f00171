"""The compose file's topology without Docker: PostgreSQL, one Prefect server, a worker a pool, models."""

import asyncio
import itertools
import os
import signal
import subprocess
import sys
from dataclasses import replace

import psutil
import pytest
from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import Scheduled

from miniature.annotations import load_annotations
from miniature.server import StandInServer
from operate.processes import Identity, end, start, tree
from operate.programs import address, client_environment, server_program, worker_programs
from operate.supervisor import Unhealthy
from storage.catalog import query
from storage.root import Root
from tests.operate.machine_helpers import REPOSITORY, Machine, free_port, until
from tests.topology.postgres import USER, postgres

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
RUNS = itertools.count()
IN_FLIGHT = 4
SILENT_S = 400  # two minutes of silence and the server's own pace


class Topology:
    """Programs by name, started and killed one by one."""

    def __init__(self, folder, database, models):
        self.folder, self.models = folder, models
        self.where = address("127.0.0.1", free_port())
        environment = Machine(folder).environment
        for role in ("CAPTIONER", "REFERENCE", "CLAIMS"):
            environment[f"VISPREF_{role}__BASE_URL"] = models.base_url
            environment[f"VISPREF_{role}__CONCURRENCY"] = str(IN_FLIGHT)
        environment |= {
            "PREFECT_HOME": str(folder / "prefect"),
            "PREFECT_SERVER_DATABASE_CONNECTION_URL": database,
            "PREFECT_API_URL": self.where.api,
        }
        self.environment = environment
        self.server = server_program(self.where, environment)
        workers = worker_programs(client_environment(self.where, None), folder)
        self.workers = {program.name: program for program in workers}
        self.running = {}

    def start(self, program):
        environment = {**program.environment, **self.environment}
        environment |= {
            name: value
            for name, value in program.environment.items()
            if name.startswith(("PREFECT_SERVER_API_", "PREFECT_FLOWS_"))
        }
        process = start(program.command, environment, self.folder / f"{program.name}.log")
        self.running[program.name] = (process, Identity.of(process.pid))

    def start_server(self):
        self.start(self.server)
        until(self.is_well, "the server is well")

    def is_well(self):
        try:
            self.server.probe()
        except Unhealthy:
            return False
        return True

    def kill(self, name):
        """SIGKILL to the program and all that came from it."""
        process, identity = self.running.pop(name)
        for member in tree(identity.find()):
            os.kill(member.pid, signal.SIGKILL)
        process.wait()

    def stop(self):
        end([identity for _, identity in self.running.values()], 10.0)
        for process, _ in self.running.values():
            process.wait()

    def ask(self, ask):
        async def run():
            async with get_client() as client:
                return await ask(client)

        with temporary_settings(updates={PREFECT_API_URL: self.where.api}):
            return asyncio.run(run())

    def begin(self, parameters):
        async def ask(client):
            found = await client.read_deployment_by_name("build-dataset/symmpo")
            return await client.create_flow_run_from_deployment(found.id, parameters=parameters)

        return self.ask(ask).id

    def state(self, run):
        return self.ask(lambda client: client.read_flow_run(run)).state

    def running_on(self, runs):
        """The worker processes that run them, or None while not all of them run."""
        found = [self.ask(lambda client, run=run: client.read_flow_run(run)) for run in runs]
        if not all(one.state.is_running() for one in found):
            return None
        processes = [psutil.Process(int(one.infrastructure_pid.split(":")[-1])) for one in found]
        return [process.ppid() for process in processes]


@pytest.fixture(scope="module")
def topology(world, tmp_path_factory):
    port = free_port()
    annotations = load_annotations(world / "annotations.jsonl")
    with postgres(port), StandInServer(annotations, latency_ms=600) as models:
        database = f"postgresql+asyncpg://{USER}@127.0.0.1:{port}/{USER}"
        made = Topology(tmp_path_factory.mktemp("topology"), database, models)
        try:
            made.start_server()
            subprocess.run(
                [sys.executable, "-m", "operate.register"],
                cwd=REPOSITORY, env=made.environment, check=True, timeout=240,
            )  # fmt: skip
            for program in made.workers.values():
                made.start(program)
            yield made
        finally:
            made.stop()


@pytest.fixture
def begin_build(topology, world, make_recipe, tmp_path):
    """begin_build() -> (the id of a run, its root)."""

    def begin():
        # Requests of its own: the workers' response cache must not answer them.
        number = next(RUNS)
        recipe = make_recipe(resample={"temperature": 0.5 + number / 100})
        root = tmp_path / f"set-{number}"
        begun = topology.begin({
            "root": str(root),
            "recipe": recipe.model_dump(mode="json"),
            "source": {"location": str(world / "prompts.jsonl")},
            "train_after": {"start": False},
        })  # fmt: skip
        return begun, Root(root)

    return begin


@pytest.fixture
def run(topology, begin_build):
    """A run with some of its calls behind it and more to come: its id, its root, stats before."""
    before = topology.models.stats()
    begun = begin_build()
    until(lambda: topology.models.stats()["calls"] - before["calls"] >= 20, "calls are made")
    return *begun, before


def asked_twice(topology, before):
    """Calls since then that had been made before."""
    after = topology.models.stats()
    return (after["calls"] - before["calls"]) - (after["distinct"] - before["distinct"])


def rows(root):
    (found,) = query(
        root,
        "SELECT count(*) AS decided, (SELECT count(*) FROM failures) AS failed, "
        "(SELECT count(*) FROM rows) AS rows FROM decisions",
    ).to_pylist()
    return found


def test_the_runs_of_two_workers_keep_to_an_endpoint_s_limit_together(topology, begin_build):
    topology.kill("worker-cpu")
    for number in (1, 2):  # each takes one run, so both take part
        one = topology.workers["worker-cpu"]
        place = one.command.index("--name") + 1
        command = (*one.command[:place], f"limited-{number}", *one.command[place + 1 :])
        limited = (*command, "--limit", "1")
        topology.start(replace(one, name=f"limited-{number}", command=limited))
    begun = [begin_build()[0] for _ in range(2)]
    found = until(lambda: topology.running_on(begun), "both run at once", SILENT_S)
    assert len(set(found)) == 2, "one worker has taken both"
    until(lambda: all(topology.state(one).is_final() for one in begun), "both end", SILENT_S)
    assert all(topology.state(one).is_completed() for one in begun)
    served = topology.models.stats()
    assert served["most_in_flight"] == IN_FLIGHT  # the limit of either, not of each
    for number in (1, 2):
        topology.kill(f"limited-{number}")
    topology.start(topology.workers["worker-cpu"])


def test_a_server_killed_in_the_middle_costs_nothing(topology, run):
    begun, root, before = run
    topology.kill("prefect-server")
    calls = topology.models.stats()["calls"]
    until(lambda: topology.models.stats()["calls"] > calls, "the run goes on without its server")
    topology.start_server()
    until(lambda: topology.state(begun).is_final(), "the run ends", SILENT_S)
    assert topology.state(begun).is_completed(), topology.state(begun)
    found = rows(root)
    assert found["rows"] > 0
    assert found == {"decided": found["rows"], "failed": 0, "rows": found["rows"]}
    assert asked_twice(topology, before) == 0


def test_a_worker_killed_with_its_run_is_noticed_and_retry_goes_on(topology, run):
    begun, root, before = run
    topology.kill("worker-cpu")
    assert topology.state(begun).is_running()
    until(lambda: topology.state(begun).is_final(), "the silence is noticed", SILENT_S)
    state = topology.state(begun)
    assert state.is_crashed()
    assert "Retry goes on" in state.message
    asked = topology.models.stats()["calls"]

    topology.start(topology.workers["worker-cpu"])
    retried = Scheduled(message="Retry", name="AwaitingRetry")
    topology.ask(lambda client: client.set_flow_run_state(begun, retried, force=False))
    until(lambda: topology.state(begun).is_completed(), "the retry ends", SILENT_S)
    found = rows(root)
    assert found == {"decided": found["rows"], "failed": 0, "rows": found["rows"]}
    # Only what was on the wire when the process died was asked a second time.
    assert 0 <= asked_twice(topology, before) <= IN_FLIGHT
    assert topology.models.stats()["calls"] > asked


def test_no_more_than_these_programs_run(topology):
    """Killed runs leave nothing behind that still asks."""
    owned = {member for _, i in topology.running.values() for member in tree(i.find())}
    mark = str(topology.folder / "prefect")
    for process in psutil.process_iter():
        try:
            ours = process.environ().get("PREFECT_HOME") == mark
        except psutil.Error:
            continue
        assert not ours or process in owned, process.cmdline()
