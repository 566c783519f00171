"""Looking after a dataset root: what killed runs left, small parts, every digest."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prefect import flow, get_run_logger

from config.settings import load_settings
from flows.forms import IfBusy
from stages.maintain import check, error_of, tidy
from storage.root import Root
from tasks.batches import whole_stage
from tasks.maintenance import publish_maintenance


@flow(name="maintenance", flow_run_name="maintenance of {root}", persist_result=False)
async def maintenance(
    root: str,
    compact: bool = True,
    verify: bool = True,
    settings_file: str | None = None,
    if_busy: IfBusy = IfBusy.WAIT,
) -> dict[str, Any]:
    """Removes what killed runs left, makes small parts few, and checks every digest of a dataset.

    Nothing that is damaged is changed: it is listed with what to do, and the run fails.

    Args:
        root: Where the dataset lies.
        compact: Make many small parts of its tables few, which makes queries fast again.
        verify: Read everything: images, tables, datasets and the response cache.
        settings_file: YAML under the worker's VISPREF_ environment, as the worker sees it.
        if_busy: While another run writes to the root: wait for it, or refuse.

    Gives a receipt of JSON values. Raises StorageError where faults were found.
    """
    found, say = Root(root), get_run_logger().warning
    settings = load_settings(Path(settings_file) if settings_file else None)
    wait = if_busy is IfBusy.WAIT
    tidied = await whole_stage("tidy", lambda: tidy(found, merge=compact, wait=wait, say=say))
    report = await whole_stage("verify", lambda: check(found, settings)) if verify else None
    await publish_maintenance(tidied, report)
    if report is not None and report["faults"]:
        raise error_of(report)
    return {**tidied, "report": report}
