"""What would be started, with which words; and the state folder."""

import os

import pytest
from pydantic import SecretStr

from config.errors import OperationError, RecipeError
from config.settings import Endpoint, Settings
from operate.pools import automation
from operate.processes import Identity
from operate.programs import (
    address,
    client_environment,
    model_programs,
    server_program,
    worker_programs,
)
from operate.state import State
from operate.supervisor import Unhealthy
from operate.up import Options, where
from stages.run import public_settings


def serving(command, base_url="http://127.0.0.1:9/v1"):
    return Endpoint(base_url=base_url, serve_command=SecretStr(command))


def test_a_command_is_split_without_a_shell():
    settings = Settings(captioner=serving("vllm serve 'a model' --port 8000 ; rm -rf $HOME"))
    (program,) = model_programs(settings)
    assert program.command == (
        "vllm", "serve", "a model", "--port", "8000", ";", "rm", "-rf", "$HOME",
    )  # fmt: skip


def test_one_command_for_two_roles_is_one_program():
    settings = Settings(
        captioner=serving("serve both"), reference=serving("serve both"), claims=serving("other")
    )
    assert [p.name for p in model_programs(settings)] == ["captioner-reference", "claims"]


@pytest.mark.parametrize(
    ("endpoint", "words"),
    [
        (serving("serve", base_url=None), "VISPREF_CLAIMS__BASE_URL"),
        (serving("serve 'open"), "no command line"),
        (serving("  "), "empty"),
    ],
)
def test_a_command_that_cannot_be_kept_is_refused(endpoint, words):
    with pytest.raises(RecipeError, match=words):
        model_programs(Settings(claims=endpoint))


def test_a_model_server_is_well_when_it_lists_a_model(server):
    (program,) = model_programs(Settings(claims=serving("serve", server.base_url)))
    program.probe()
    (dead,) = model_programs(Settings(claims=serving("serve")))
    with pytest.raises(Unhealthy):
        dead.probe()


def test_a_command_is_in_no_record_of_a_run():
    recorded = public_settings(Settings(claims=serving("serve --api-key sk-top-secret")))
    assert "sk-top-secret" not in str(recorded)


def test_the_port_is_set_for_the_ui_too():
    found = address("127.0.0.1", 4711)
    program = server_program(found, client_environment(found, None))
    assert program.environment["PREFECT_SERVER_API_PORT"] == "4711"
    assert program.environment["PREFECT_API_URL"] == "http://127.0.0.1:4711/api"


def test_clients_get_the_password_of_the_server_that_is_started(monkeypatch):
    monkeypatch.delenv("PREFECT_API_AUTH_STRING", raising=False)
    monkeypatch.setenv("PREFECT_SERVER_API_AUTH_STRING", "me:secret")
    found = address("127.0.0.1", 4711)
    assert client_environment(found, None)["PREFECT_API_AUTH_STRING"] == "me:secret"


def test_workers_beat_often_enough_and_folders_have_workers_of_their_own(tmp_path):
    found = address("127.0.0.1", 4711)
    one, other = (
        worker_programs(client_environment(found, None), tmp_path / name) for name in ("a", "b")
    )
    assert all(p.environment["PREFECT_FLOWS_HEARTBEAT_FREQUENCY"] == "30" for p in one)
    assert not {p.command for p in one} & {p.command for p in other}


def test_dead_runs_are_known_by_at_least_three_missed_beats_of_our_deployments():
    made = automation(["b", "a"])
    assert made.trigger.within.total_seconds() >= 3 * 30
    related = made.trigger.match_related.model_dump()
    assert "prefect.deployment.a" in str(related)
    assert "Retry" in made.actions[0].message


def test_an_open_host_wants_a_password(monkeypatch):
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    with pytest.raises(OperationError, match="PREFECT_SERVER_API_AUTH_STRING=user:password"):
        where(Options(host="0.0.0.0"))


def test_a_taken_port_is_named():
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(OperationError, match=f"port {port} .* --port"):
            where(Options(port=port))


def test_a_folder_is_held_once(tmp_path):
    state = State(tmp_path / "state")
    with state.held():
        state.write({"pid": os.getpid(), "programs": {}})
        again = State(tmp_path / "state")
        expected = rf"process {os.getpid()}.*vispref down"
        with pytest.raises(OperationError, match=expected), again.held():
            pass
    with state.held():
        pass
    assert state.folder.stat().st_mode & 0o077 == 0


def test_the_holder_is_who_wrote_the_state_and_still_lives(tmp_path):
    state = State(tmp_path)
    assert state.read() == {}
    assert state.holder() is None
    me = Identity.of(os.getpid())
    state.write({"pid": me.pid, "created": me.created, "programs": {}})
    assert state.holder() == me
    state.write({"pid": me.pid, "created": me.created - 100, "programs": {}})
    assert state.holder() is None
