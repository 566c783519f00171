"""What maintenance did and found, as tables in Prefect."""

from __future__ import annotations

from typing import Any

from prefect.artifacts import acreate_table_artifact

from tasks.patience import shown


async def publish_maintenance(tidied: dict[str, Any], report: dict[str, Any] | None) -> None:
    """One table of counts and, where the root was checked, one of its faults with what to do."""
    rows = summary(tidied, report)
    told = "What was done and checked"
    await shown(lambda: acreate_table_artifact(table=rows, key="maintenance", description=told))
    if report is not None:
        found = f"{report['faults']:,} faults" if report["faults"] else "No fault was found"
        faults = [_fault(line) for line in report["listed"]]
        await shown(
            lambda: acreate_table_artifact(
                table=faults, key="maintenance-faults", description=found
            )
        )


def summary(tidied: dict[str, Any], report: dict[str, Any] | None) -> list[dict[str, Any]]:
    lines = [
        {"what": f"removed or ended: {name}", "count": count}
        for name, count in tidied["swept"].items()
    ]
    for name in ("parts before", "parts after", "unreadable"):
        total = sum(line[name] for line in tidied["tables"])
        lines.append({"what": f"merging: {name}", "count": total})
    if report is not None:
        checked = report["checked"].items()
        lines += [{"what": f"checked: {name}", "count": count} for name, count in checked]
        lines.append({"what": "faults", "count": report["faults"]})
    return lines


def _fault(line: dict[str, Any]) -> dict[str, Any]:
    return {
        "fault": line["kind"],
        "where": line["path"],
        "found": line["found"],
        "what to do": line["do"],
    }
