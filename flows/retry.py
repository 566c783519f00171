"""Failed rows, asked afresh by stage or class of error; nothing else is asked again."""

from __future__ import annotations

from typing import Any

from prefect import flow
from prefect.runtime import flow_run

from config.changes import Changes
from config.errors import RecipeError
from config.recipe import parse_recipe
from flows.building import build, settings_of_run
from flows.forms import ErrorClass, IfBusy, Stage, TrainAfter
from stages.pending import Retry
from storage.catalog import read_current
from storage.root import Root
from tasks.handoff import start_training


def run_name() -> str:
    parameters = flow_run.parameters
    place = str(parameters["root"]).rstrip("/").rsplit("/", 1)[-1]
    return f"retry {parameters['stage']} {parameters['error_class']} in {place}"


@flow(name="retry-failed", flow_run_name=run_name, persist_result=False)
async def retry_failed(
    root: str,
    stage: Stage = Stage.ANY,  # type: ignore[valid-type, attr-defined]
    error_class: ErrorClass = ErrorClass.ANY,  # type: ignore[valid-type, attr-defined]
    changes: Changes = Changes(),  # noqa: B008 - never changed; a form shows its fields
    train_after: TrainAfter = TrainAfter(),  # noqa: B008
    settings_file: str | None = None,
    if_busy: IfBusy = IfBusy.WAIT,
) -> dict[str, Any]:
    """Asks the failed rows of a dataset afresh, and goes on with what follows from them.

    The recipe is the one the root was last built with. Rows that have an answer keep it.

    Args:
        root: Where the dataset lies.
        stage: Only rows that failed in this stage.
        error_class: Only rows that failed so.
        changes: Other limits or another endpoint, for this run alone.
        train_after: Start training when the dataset is usable.
        settings_file: YAML under the worker's VISPREF_ environment, as the worker sees it.
        if_busy: While another run writes to the root: wait for it, or refuse.

    Gives a receipt of JSON values. Raises RecipeError where the root was never built.
    """
    found = Root(root)
    stored = read_current(found).get("recipe")
    if stored is None:
        raise RecipeError(f"{found.url} was never built, so no row has failed: build it first")
    receipt = await build(
        found,
        parse_recipe(stored, origin=found.url),
        await settings_of_run(settings_file, changes),
        spec=None,
        retry=Retry(_chosen(stage), _chosen(error_class)),
        wait=if_busy is IfBusy.WAIT,
    )
    if train_after.start:
        await start_training(root, receipt, train_after.model_dump())
    return receipt


def _chosen(value: Any) -> str | None:
    return None if value == "any" else str(value)
