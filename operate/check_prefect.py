"""What `vispref doctor` asks Prefect's server, and of what `vispref up` keeps running."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import prefect
import yaml
from httpx import HTTPError, HTTPStatusError
from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.responses import DeploymentResponse
from prefect.exceptions import ObjectNotFound
from prefect.settings import get_current_settings
from prefect.utilities.hashing import file_hash

from config.errors import OperationError
from operate.findings import Finding, fail, ok, warn
from operate.pools import AUTOMATION, POOLS, automation, deployments_of_pools
from operate.probes import HttpRefused, get_json
from operate.register import project_file
from operate.state import State
from operate.supervisor import Unhealthy

SERVER = "Prefect server"
AGAIN = "vispref up registers it; elsewhere python -m operate.register"


async def check_prefect(*, ours: bool) -> list[Finding]:
    """ours: the server was started by `vispref up` here, with this machine's settings."""
    api = get_current_settings().api.url
    if api is None:
        remedy = "vispref up starts one; PREFECT_API_URL names one that runs elsewhere"
        return [warn(SERVER, "none runs here and PREFECT_API_URL names none", remedy)]
    try:
        get_json(f"{api}/health")
    except HttpRefused as error:
        return [fail(SERVER, str(error), "PREFECT_API_URL must end in /api")]
    except Unhealthy as error:
        return [fail(SERVER, str(error), "start it, or correct PREFECT_API_URL")]
    try:
        async with get_client() as client:
            return [finding async for finding in _asked(client, ours=ours)]
    except HTTPStatusError as error:
        status = error.response.status_code
        if status not in (401, 403):
            raise
        remedy = "set PREFECT_API_AUTH_STRING=user:password, as PREFECT_SERVER_API_AUTH_STRING has"
        return [fail(SERVER, f"{api} answers HTTP {status}: the password is wrong", remedy)]
    except HTTPError as error:
        return [fail(SERVER, f"{api}: {error}", "see the server's log")]


async def _asked(client: PrefectClient, *, ours: bool) -> AsyncIterator[Finding]:
    version = await client.api_version()
    if version == prefect.__version__:
        yield ok(SERVER, f"{client.api_url} runs {version}, as here")
    else:
        yield fail(
            SERVER,
            f"{client.api_url} runs {version}, here is {prefect.__version__}",
            f"install prefect=={version} here, or run the server in {prefect.__version__}",
        )
    yield await _database(client, ours=ours)
    for pool in POOLS:
        yield await _pool(client, pool)
    for finding in await _deployments(client):
        yield finding
    yield await _automation(client)


async def _database(client: PrefectClient, *, ours: bool) -> Finding:
    answer = await client.request("GET", "/admin/settings")
    driver = answer.json()["server"]["database"]["driver"]
    if driver is None and ours:
        url = get_current_settings().server.database.connection_url
        driver = "sqlite" if url is None else url.get_secret_value().split(":")[0]
    if driver is None:
        return ok("database", "the server does not tell which it uses")
    if "sqlite" in driver:
        return warn(
            "database",
            "SQLite, which locks under load: triggers and heartbeats can be lost",
            "fine for one person's laptop; else PostgreSQL (PREFECT_SERVER_DATABASE_CONNECTION_URL)",
        )
    return ok("database", driver)


async def _pool(client: PrefectClient, name: str) -> Finding:
    what = f"pool {name}"
    try:
        pool = await client.read_work_pool(name)
    except ObjectNotFound:
        return fail(what, "is not there", AGAIN)
    workers = await client.read_workers_for_work_pool(name)
    online = sorted(worker.name for worker in workers if worker.status == "ONLINE")
    if pool.is_paused:
        return warn(what, "is paused", f"prefect work-pool resume {name}")
    if not online:
        return fail(
            what,
            "has no live worker, so its runs wait",
            f"vispref up, or prefect worker start --pool {name}",
        )
    return ok(what, f"{pool.type}, worker {', '.join(online)}")


async def _deployments(client: PrefectClient) -> list[Finding]:
    try:
        file = project_file()
    except OperationError as error:
        return [warn("deployments", str(error), "run the doctor in a clone of the project")]
    wanted = yaml.safe_load(file.read_text(encoding="utf-8"))["deployments"]
    there = {(d.name, d.entrypoint): d for d in await client.read_deployments(limit=200)}
    trouble = list(_differences(wanted, there, file.parent))
    if trouble:
        return [fail("deployments", text, AGAIN) for text in trouble]
    return [ok("deployments", f"{len(wanted)} of {file}, as they stand there")]


def _differences(
    wanted: list[dict[str, Any]],
    there: dict[tuple[str, str | None], DeploymentResponse],
    folder: Path,
) -> Iterator[str]:
    """What of prefect.yaml the server does not have. A version is the digest of the flow's file."""
    for deployment in wanted:
        name, entrypoint = deployment["name"], deployment["entrypoint"]
        found = there.get((name, entrypoint))
        if found is None:
            yield f"{name} ({entrypoint}) is not registered"
        elif found.version != file_hash(str(folder / entrypoint.split(":")[0])):
            yield f"{name} was registered from another version of {entrypoint}"
        elif " ".join((found.description or "").split()) != " ".join(
            deployment.get("description", "").split()
        ):
            yield f"{name} was registered from another version of prefect.yaml"


async def _automation(client: PrefectClient) -> Finding:
    what = "dead runs"
    found = await client.read_automations_by_name(AUTOMATION)
    if not found:
        return fail(what, "no automation ends them: they would stay Running", AGAIN)
    if not found[0].enabled:
        return warn(
            what, f"the automation {AUTOMATION!r} is switched off", "switch it on in the UI"
        )
    wanted = automation(await deployments_of_pools(client))
    if found[0].trigger != wanted.trigger:
        return warn(what, "the automation does not watch all deployments", AGAIN)
    return ok(what, "an automation ends runs that fall silent")


def check_programs(state: State) -> Iterator[Finding]:
    """What `vispref up` keeps running, and what it gave up."""
    if state.holder() is None:
        yield ok("vispref up", f"does not run with {state.folder}")
        return
    for name, program in state.read().get("programs", {}).items():
        log = program["log"]
        if program["phase"] == "gave up":
            yield fail(name, program["message"], f"mend what {log} says, then vispref down and up")
        elif program["phase"] in ("waiting", "starting"):
            yield warn(name, f"{program['phase']}: {program['message']}", f"wait, or see {log}")
        else:
            starts = program["starts"]
            again = f", started {starts} times" if starts > 1 else ""
            yield ok(name, f"{program['phase']}: {program['message']}{again}")
