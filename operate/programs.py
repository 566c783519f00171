"""The programs that `vispref up` keeps running: Prefect's server, the workers, model servers."""

from __future__ import annotations

import hashlib
import os
import shlex
import socket
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, temporary_settings

from config.errors import RecipeError
from config.settings import ROLES, Settings
from operate.pools import POOLS, worker_environment
from operate.probes import HttpRefused, get_json, served_models
from operate.supervisor import Program, Unhealthy

LOOPBACK = ("127.0.0.1", "localhost", "::1")
MODEL_PATIENCE_S = 3600.0  # weights may have to be fetched first
# Prefect's defaults record a fraction of the task runs a second that these do.
SERVER_SETTINGS = {
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_BATCH_SIZE": "200",
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_READ_BATCH_SIZE": "200",
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_FLUSH_INTERVAL": "1",
    "PREFECT_SERVER_SERVICES_EVENT_PERSISTER_READ_BATCH_SIZE": "200",
    "PREFECT_SERVER_SERVICES_TRIGGERS_READ_BATCH_SIZE": "200",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "1",
}
QUIET = {"DO_NOT_TRACK": "1", "PREFECT_CLI_PROMPT": "false"}


@dataclass(frozen=True)
class Address:
    """Where Prefect's server is; `ours` when this machine starts it."""

    api: str
    ours: bool
    host: str = ""
    port: int = 0

    @property
    def ui(self) -> str:
        return self.api.removesuffix("/api")


def address(host: str, port: int) -> Address:
    shown = f"[{host}]" if ":" in host else "127.0.0.1" if host == "0.0.0.0" else host  # noqa: S104
    return Address(f"http://{shown}:{port}/api", ours=True, host=host, port=port)


def client_environment(where: Address, home: Path | None) -> dict[str, str]:
    """The environment of everything that talks to the server; the user's own values win."""
    environment = {**QUIET, **os.environ, "PREFECT_API_URL": where.api}
    if home is not None:
        environment["PREFECT_HOME"] = str(home)
    password = environment.get("PREFECT_SERVER_API_AUTH_STRING")
    if where.ours and password:
        environment.setdefault("PREFECT_API_AUTH_STRING", password)
    return environment


@contextmanager
def talking_to(where: Address, clients: Mapping[str, str]) -> Iterator[None]:
    """Prefect's client in this process, set as in the programs that are started."""
    updates: dict[Any, Any] = {PREFECT_API_URL: where.api}
    if "PREFECT_API_AUTH_STRING" in clients:
        updates[PREFECT_API_AUTH_STRING] = clients["PREFECT_API_AUTH_STRING"]
    with temporary_settings(updates=updates):
        yield


def server_program(where: Address, clients: Mapping[str, str]) -> Program:
    def probe() -> None:
        if get_json(f"{where.api}/health") is not True:
            raise Unhealthy(f"{where.api}/health does not say that it is well")

    return Program(
        name="prefect-server",
        command=(sys.executable, "-m", "prefect", "server", "start"),
        environment={
            **SERVER_SETTINGS,
            **clients,
            # The port as an option alone would leave the UI asking at 4200.
            "PREFECT_SERVER_API_HOST": where.host,
            "PREFECT_SERVER_API_PORT": str(where.port),
        },
        probe=probe,
    )


def worker_name(pool: str, state: Path) -> str:
    """The same on every start with a state folder: runs that a killed worker left are known by it."""
    digest = hashlib.sha256(str(state).encode()).hexdigest()
    return f"{pool}-{socket.gethostname()}-{digest[:6]}"


def worker_programs(clients: Mapping[str, str], state: Path) -> list[Program]:
    return [
        Program(
            name=f"worker-{pool.removeprefix('vispref-')}",
            command=(
                *(sys.executable, "-m", "prefect", "worker", "start"),
                *("--pool", pool, "--name", worker_name(pool, state), "--type", "process"),
            ),
            environment={**clients, **worker_environment()},
        )
        for pool in POOLS
    ]


def model_programs(settings: Settings) -> list[Program]:
    """The model servers with a `serve_command`; one that serves several roles is started once.

    Raises RecipeError for a command without a base_url to ask, or that is no command line.
    """
    roles: dict[str, list[str]] = {}
    for role in ROLES:
        endpoint = settings.endpoint(role)
        if endpoint.serve_command is not None:
            if endpoint.base_url is None:
                raise RecipeError(
                    f"{role}: serve_command is set, base_url is not; set VISPREF_{role.upper()}"
                    "__BASE_URL to where that server answers, it is asked there whether it is well"
                )
            roles.setdefault(endpoint.serve_command.get_secret_value(), []).append(role)
    return [_model_program(command, of, settings) for command, of in roles.items()]


def _model_program(command: str, roles: list[str], settings: Settings) -> Program:
    try:
        words = tuple(shlex.split(command))
    except ValueError as error:
        raise RecipeError(f"{roles[0]}: serve_command is no command line: {error}") from None
    if not words:
        raise RecipeError(f"{roles[0]}: serve_command is empty; unset it or name a program")
    endpoints = [getattr(settings, role) for role in roles]

    def probe() -> None:
        for endpoint in endpoints:
            key = None if endpoint.api_key is None else endpoint.api_key.get_secret_value()
            try:
                if not served_models(endpoint.base_url, key):
                    raise Unhealthy(f"{endpoint.base_url}/models names no model")
            except HttpRefused as refused:
                if refused.status not in (401, 403):  # it answers; its key is in a Secret block
                    raise

    return Program(
        name="-".join(roles),
        command=words,
        environment=dict(os.environ),
        probe=probe,
        patience_s=MODEL_PATIENCE_S,
    )
