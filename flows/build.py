"""The main job: images and prompts in, a symmetric preference dataset out."""

from __future__ import annotations

from typing import Any

from prefect import flow
from prefect.runtime import flow_run

from config.changes import Changes
from config.recipe import Recipe, load_recipe
from flows.building import build, settings_of_run
from flows.forms import IfBusy, Input, TrainAfter
from storage.root import Root
from tasks.handoff import start_training

SYMMPO = load_recipe("symmpo")


def run_name() -> str:
    parameters = flow_run.parameters
    place = str(parameters["root"]).rstrip("/").rsplit("/", 1)[-1]
    # Prefect gives the values as they came, or as the flow's signature makes them.
    return f"build {Recipe.model_validate(parameters['recipe']).name} in {place}"


@flow(name="build-dataset", flow_run_name=run_name, persist_result=False)
async def build_dataset(
    root: str,
    source: Input | None = None,
    train_after: TrainAfter = TrainAfter(),  # noqa: B008 - never changed; a form shows its fields
    recipe: Recipe = SYMMPO,
    changes: Changes = Changes(),  # noqa: B008
    settings_file: str | None = None,
    if_busy: IfBusy = IfBusy.WAIT,
) -> dict[str, Any]:
    """Builds the dataset under a root, or goes on with it: only what is pending is done.

    Retry of a stopped or crashed run goes on from what it did, and so does any other run on the
    same root. Nothing that was answered is paid for again.

    Args:
        root: Where the dataset lies: a folder, or a URL such as s3://bucket/set.
        source: Images and prompts. Empty: the rows that the root already has.
        train_after: Start training when the dataset is usable.
        recipe: What the dataset is. The defaults are the SymMPO paper's.
        changes: Limits, endpoints and budget of this run alone.
        settings_file: YAML under the worker's VISPREF_ environment, as the worker sees it.
        if_busy: While another run writes to the root: wait for it, or refuse.

    Gives a receipt of JSON values. Raises StageStopped when the run cannot go on.
    """
    settings = await settings_of_run(settings_file, changes)
    receipt = await build(
        Root(root),
        recipe,
        settings,
        spec=None if source is None else source.spec(),
        retry=None,
        wait=if_busy is IfBusy.WAIT,
    )
    if train_after.start:
        await start_training(root, receipt, train_after.model_dump())
    return receipt
