"""What a run shows in Prefect: a progress artifact while it goes on, a table of its stages."""

from __future__ import annotations

import asyncio
import contextlib
import shlex
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

from prefect.artifacts import (
    acreate_markdown_artifact,
    acreate_progress_artifact,
    acreate_table_artifact,
    aupdate_progress_artifact,
)

from stages.base import Progress
from stages.chain import STAGES
from storage.catalog import CATALOG
from storage.root import Root
from tasks.patience import shown

EVERY_S = 5.0
QUERIES = (
    (
        "Rows and mean lengths by split",
        """SELECT split, count(*) AS n, avg(length(chosen)) AS chosen_characters,
    avg(length(rejected)) AS rejected_characters
FROM preferences GROUP BY split""",
    ),
    (
        "What was dropped and why",
        """SELECT reason, count(*) AS n, any_value(detail) AS example
FROM decisions WHERE NOT kept GROUP BY reason ORDER BY n DESC""",
    ),
    (
        "Where the texts of one row come from",
        """SELECT side, claim, verdict, evidence, answer FROM lineage
WHERE row_id = (SELECT min(row_id) FROM preferences) ORDER BY side, claim""",
    ),
)


def share_done(progress: Progress) -> float:
    """Percent of the stages' work, each stage weighing the same."""
    done = 0.0
    for name in STAGES:
        stage = progress.stages.get(name)
        if stage is None:
            continue
        if stage.state in ("done", "stopped"):
            done += 1.0
        elif stage.total:
            done += (stage.done + stage.failed) / stage.total
    return 100.0 * done / len(STAGES)


@contextlib.asynccontextmanager
async def reporting(progress: Progress, every_s: float = EVERY_S) -> AsyncIterator[None]:
    """Keeps the run's progress artifact up to date, and leaves the table of stages at its end."""
    made = await shown(
        lambda: acreate_progress_artifact(progress=0.0, description="Share of the stages done"), 0
    )
    artifact = getattr(made, "id", made)
    updating = asyncio.create_task(_update(artifact, progress, every_s))
    try:
        yield
    finally:
        updating.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await updating
        await _move(artifact, progress)
        await shown(
            lambda: acreate_table_artifact(
                table=stage_table(progress), key="stages", description="What each stage did"
            )
        )


async def _update(artifact: UUID | None, progress: Progress, every_s: float) -> None:
    while True:
        await asyncio.sleep(every_s)
        await _move(artifact, progress)


async def _move(artifact: UUID | None, progress: Progress) -> None:
    if artifact is not None:
        percent = share_done(progress)
        await shown(lambda: aupdate_progress_artifact(artifact, progress=percent), 0)


def stage_table(progress: Progress) -> list[dict[str, Any]]:
    return [stage.as_dict() for stage in progress.stages.values()]


async def publish_card(root: Root, receipt: dict[str, Any]) -> None:
    """The dataset's card, with queries to copy at its top."""
    card = root.read_bytes(f"{receipt['path']}/README.md").decode()
    await shown(
        lambda: acreate_markdown_artifact(
            markdown=query_page(root) + "\n" + card,
            key="dataset-card",
            description="Dataset card, and queries to copy",
        )
    )


def query_page(root: Root) -> str:
    """Three queries as whole commands for a shell that sees the root."""
    place = shlex.quote(root.url_of(CATALOG) if root.is_local else root.url)
    command = f"duckdb -readonly {place} -c" if root.is_local else f"vispref query --root {place}"
    lines = ["# Query it", "", "The tables may be read while runs write to them.", ""]
    for title, sql in QUERIES:
        lines += [f"{title}:", "", "```sh", f'{command} "\n{sql}"', "```", ""]
    return "\n".join(lines)
