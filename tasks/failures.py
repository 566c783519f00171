"""The failed rows of a root as a table in Prefect, with links that retry them."""

from __future__ import annotations

import asyncio
import json
import shlex
from typing import Any
from urllib.parse import quote

from prefect.artifacts import acreate_markdown_artifact, acreate_table_artifact
from prefect.client.orchestration import get_client
from prefect.exceptions import ObjectNotFound
from prefect.settings import get_current_settings

from curation.advice import advice
from stages.chain import CAPTION, EXTRACT, RESAMPLE, REWRITE
from storage.catalog import query
from storage.root import Root
from tasks.patience import shown

DEPLOYMENT = "retry-failed/retry-failed"
SQL = (
    "SELECT stage, error_class, count(*) AS rows, any_value(message) AS example FROM failures "
    "GROUP BY stage, error_class ORDER BY rows DESC, stage, error_class"
)
SHOWN = 300  # characters of an example
ASKED_AGAIN = (CAPTION, RESAMPLE, EXTRACT, REWRITE)


def failed_rows(root: Root) -> list[dict[str, Any]]:
    """One line a stage and class of error: rows, an example, what to do."""
    return [
        {
            "stage": row["stage"],
            "error class": row["error_class"],
            "rows": row["rows"],
            "what to do": advice(row["stage"], row["error_class"]),
            "example": " ".join(row["example"].split())[:SHOWN],
        }
        for row in query(root, SQL).to_pylist()
    ]


async def publish_failures(root: Root) -> None:
    """A table of what failed and has no output since; and, where rows did, how to retry them."""
    rows = await asyncio.to_thread(failed_rows, root)
    told = f"{sum(row['rows'] for row in rows):,} rows have failed" if rows else "No row has failed"
    await shown(lambda: acreate_table_artifact(table=rows, key="failed-rows", description=told))
    again = [row for row in rows if row["stage"] in ASKED_AGAIN]
    if again:
        page = retry_page(root.url, again, await shown(_retry_form))
        await shown(
            lambda: acreate_markdown_artifact(
                markdown=page, key="retry-failed", description="How to retry the failed rows"
            )
        )


async def _retry_form() -> str | None:
    """The address of the retry deployment's form in the UI; None where it is not deployed."""
    ui = get_current_settings().ui_url
    async with get_client() as client:
        try:
            deployment = await client.read_deployment_by_name(DEPLOYMENT)
        except ObjectNotFound:
            return None
    return f"{ui}/deployments/deployment/{deployment.id}/run" if ui else None


def retry_page(root: str, rows: list[dict[str, Any]], form: str | None) -> str:
    """Markdown: what to do, an example, and a link that opens the retry's form filled in."""
    lines = ["# Retry failed rows", ""]
    lines += ["Rows that have an answer keep it; only these are asked again, and paid for.", ""]
    for row in rows:
        stage, kind = row["stage"], row["error class"]
        command = f"vispref retry --root {shlex.quote(root)} --stage {stage} --error-class {kind}"
        link = "In a shell:"
        if form is not None:
            values = json.dumps({"root": root, "stage": stage, "error_class": kind})
            # The page decodes the value once more than the address bar does.
            place = f"{form}?parameters={quote(quote(values, safe=''), safe='')}"
            link = f"[Retry these]({place}), or in a shell:"
        lines += [f"## {stage}: {kind}, {row['rows']:,} rows", "", row["what to do"], ""]
        # A model's words are shown as they are: in a code block nothing in them is a link.
        lines += ["```text", row["example"].replace("`", "'"), "```", ""]
        lines += [link, "", "```sh", command, "```", ""]
    return "\n".join(lines)
