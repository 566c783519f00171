"""Draws a report as one HTML page. Pure: every text is escaped, nothing is loaded from elsewhere."""

from __future__ import annotations

from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from report.charts import HEIGHT, WIDTH, histograms
from report.content import Report

# The mark says in the text what the colour says to the eye.
VERDICTS = {
    "consistent": ("✓", "consistent"),
    "inconsistent": ("✗", "inconsistent"),
    "unverifiable": ("?", "unverifiable"),
}
SIDES = {"chosen": "Chosen", "rejected": "Rejected", "neighbour_chosen": "Neighbour's chosen"}


def render(report: Report) -> str:
    """The page's HTML."""
    environment = Environment(
        loader=PackageLoader("report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"thousands": _thousands, "percent": _percent}
    given: dict[str, Any] = {
        "report": report,
        "histograms": histograms(report.lengths),
        "plot": {"width": WIDTH, "height": HEIGHT},
        "verdicts": VERDICTS,
        "sides": SIDES,
        "tokens": sum(s.prompt_tokens + s.completion_tokens for s in report.stages),
        "cost": sum(stage.cost for stage in report.stages),
        "calls": sum(stage.calls for stage in report.stages),
    }
    return environment.get_template("report.html").render(given)


def _thousands(value: int) -> str:
    return f"{value:,}"


def _percent(part: int, whole: int) -> str:
    return f"{part / whole:.1%}" if whole else "none"
