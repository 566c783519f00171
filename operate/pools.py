"""What Prefect's server must know: the two pools, and how a run that died without a word ends."""

from __future__ import annotations

import contextlib
from datetime import timedelta
from typing import Any

from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateType,
    WorkPoolFilter,
    WorkPoolFilterName,
)
from prefect.client.schemas.objects import StateType
from prefect.events.actions import ChangeFlowRunState
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
from prefect.events.schemas.events import ResourceSpecification
from prefect.exceptions import ObjectAlreadyExists
from prefect.states import Crashed
from prefect.workers.process import ProcessWorker

CPU, GPU = "vispref-cpu", "vispref-gpu"
POOLS = (CPU, GPU)
HEARTBEAT_S = 30  # the least that Prefect takes
SILENCE_S = 4 * HEARTBEAT_S  # a restarted server or a lost beat is no dead run
AUTOMATION = "vispref: runs that fell silent"
STOPPED = "Its worker was stopped. What was done is kept: Retry goes on from there."
SILENT = "It sent no heartbeat for two minutes. What was done is kept: Retry goes on from there."


def worker_environment() -> dict[str, str]:
    """Also known as PREFECT_RUNNER_HEARTBEAT_FREQUENCY, which this name wins over."""
    return {"PREFECT_FLOWS_HEARTBEAT_FREQUENCY": str(HEARTBEAT_S)}


def _template() -> dict[str, Any]:
    """Prefect's own for processes, with heartbeats: whoever starts a worker on the pool."""
    template: dict[str, Any] = ProcessWorker.get_default_base_job_template()
    template["variables"]["properties"]["env"]["default"] = worker_environment()
    return template


async def make_pools(client: PrefectClient, gpus: int) -> None:
    """Makes the two pools where they are missing; what their users changed since is kept.

    gpus: how many runs the GPU pool may have at a time; one at least.
    """
    for name in POOLS:
        with contextlib.suppress(ObjectAlreadyExists):
            await client.create_work_pool(
                WorkPoolCreate(
                    name=name,
                    type="process",
                    base_job_template=_template(),
                    concurrency_limit=max(1, gpus) if name == GPU else None,
                )
            )


async def install_automation(client: PrefectClient) -> None:
    """Makes or renews the automation that ends the runs which fell silent.

    It watches this project's deployments alone: other runs of the server may beat more slowly.
    """
    wanted = automation(await deployments_of_pools(client))
    found = await client.read_automations_by_name(AUTOMATION)
    for old in found:
        same = old.model_dump(mode="json", exclude={"id", "enabled"})
        if same == wanted.model_dump(mode="json", exclude={"enabled"}):
            return
        await client.update_automation(old.id, wanted.model_copy(update={"enabled": old.enabled}))
    if not found:
        await client.create_automation(wanted)


def automation(deployments: list[str]) -> AutomationCore:
    ends = {f"prefect.flow-run.{name}" for name in ("Completed", "Failed", "Cancelled", "Crashed")}
    return AutomationCore(
        name=AUTOMATION,
        description="A run whose process and worker were killed would stay Running for ever.",
        trigger=EventTrigger(
            after={"prefect.flow-run.heartbeat"},
            expect={"prefect.flow-run.heartbeat", *ends},
            match=ResourceSpecification({"prefect.resource.id": ["prefect.flow-run.*"]}),
            match_related=ResourceSpecification({
                "prefect.resource.role": "deployment",
                "prefect.resource.id": [f"prefect.deployment.{found}" for found in deployments],
            }),
            for_each={"prefect.resource.id"},
            posture=Posture.Proactive,
            threshold=1,
            within=timedelta(seconds=SILENCE_S),
        ),
        actions=[ChangeFlowRunState(state=StateType.CRASHED, message=SILENT)],
    )  # fmt: skip


async def deployments_of_pools(client: PrefectClient) -> list[str]:
    """The ids of the deployments whose runs the two pools take."""
    ours = WorkPoolFilter(name=WorkPoolFilterName(any_=list(POOLS)))
    return sorted(str(found.id) for found in await client.read_deployments(work_pool_filter=ours))


async def crash_runs_of(client: PrefectClient, workers: list[str]) -> int:
    """Ends the runs that these workers had under way, once no worker of these names lives.

    A killed process tells nobody, and its run would stay Running. Gives how many there were.
    """
    under_way = [StateType.RUNNING, StateType.PENDING, StateType.CANCELLING]
    runs = await client.read_flow_runs(
        flow_run_filter=FlowRunFilter(
            state=FlowRunFilterState(type=FlowRunFilterStateType(any_=under_way))
        ),
        work_pool_filter=WorkPoolFilter(name=WorkPoolFilterName(any_=list(POOLS))),
    )
    lost = [run for run in runs if run.labels.get("prefect.worker.name") in workers]
    for run in lost:
        await client.set_flow_run_state(run.id, Crashed(message=STOPPED), force=True)
    return len(lost)
