"""Training starts when the dataset is done, or the run says why it does not."""

from __future__ import annotations

from typing import Any

from prefect import get_run_logger
from prefect.artifacts import acreate_markdown_artifact
from prefect.client.schemas.objects import FlowRun
from prefect.deployments import run_deployment
from prefect.exceptions import ObjectNotFound
from prefect.settings import get_current_settings

from config.digest import digest
from curation.usable import why_unusable
from tasks.patience import shown


async def start_training(
    root: str, receipt: dict[str, Any], wanted: dict[str, Any]
) -> FlowRun | None:
    """Starts the training deployment on the receipt's dataset, once for each dataset and recipe.

    wanted: the fields of flows.forms.TrainAfter. Gives the run, or None where none was started;
    either way the artifact `training-start` says what happened and why.
    """
    why = why_unusable(
        receipt["rows"],
        receipt["kept"],
        min_rows=wanted["min_rows"],
        max_drop_rate=wanted["max_drop_rate"],
    )
    run = None
    if why is not None:
        told = f"Training was not started: {why}."
    else:
        told, run = await _start(root, receipt["dataset"], wanted)
    get_run_logger().info(told)
    await shown(
        lambda: acreate_markdown_artifact(
            markdown=f"# Training\n\n{told}\n",
            key="training-start",
            description="Train after data",
        )
    )
    return run


async def _start(root: str, dataset: str, wanted: dict[str, Any]) -> tuple[str, FlowRun | None]:
    parameters = {
        "data": root,
        "dataset": dataset,
        "recipe": wanted["recipe"],
        "overrides": wanted["overrides"],
        "evaluation": wanted["evaluation"],
    }
    try:
        # The key makes a retry of this run, or a run that made the same dataset, start no second
        # training: a trigger on the run's end could be lost or fire twice.
        run = await run_deployment(  # type: ignore[misc]
            wanted["deployment"],
            parameters=parameters,
            timeout=0,
            as_subflow=False,
            idempotency_key=digest(parameters),
        )
    except ObjectNotFound:
        return (
            f"Training was not started: there is no deployment {wanted['deployment']!r}; make it "
            "with `vispref up` or `prefect deploy --all`, then start it there with the dataset's "
            f"digest `{dataset}`."
        ), None
    state = run.state.type.value.lower() if run.state else "unknown"
    place = f"{get_current_settings().ui_url}/runs/flow-run/{run.id}"
    return (
        f"Training of dataset `{dataset}` with `{wanted['recipe']}` is the run "
        f"[{run.name}]({place}), which is {state}. It is started once for a dataset and a recipe; "
        "where it has failed, retry it there."
    ), run
