"""What the commands print."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from cli.progress import human_time
from cli.results import arrow_table, built_root, console
from config.errors import StorageError
from config.settings import Budget
from storage.catalog import query, read_current, write_catalog
from storage.root import Root

if TYPE_CHECKING:
    from stages.plan import StagePlan

VERDICT_COLOURS = {"consistent": "green", "inconsistent": "red", "unverifiable": "yellow"}


@dataclass(frozen=True)
class Planned:
    """The stages' plans, what this root has spent, and its budget."""

    stages: list[StagePlan]
    spent: float
    spent_tokens: int
    budget: Budget


def print_plan(planned: Planned) -> None:
    """What would be called and why, a line a reason; then the sum, prices and the budget."""
    out = console()
    table = Table(box=None, pad_edge=False)
    table.add_column("stage", no_wrap=True)
    for name in ("calls", "tokens in", "tokens out", "cost"):
        table.add_column(name, justify="right", no_wrap=True)
    for plan in planned.stages:
        cost = "no price" if plan.dollars is None else f"${plan.dollars:,.2f}"
        table.add_row(
            plan.stage,
            ("at most " if plan.waiting else "") + f"{plan.calls:,}",
            f"{plan.prompt_tokens:,}",
            f"{plan.completion_tokens:,}",
            cost + (" (guess)" if plan.guessed and plan.calls else ""),
        )
    out.print(table)
    for plan in planned.stages:
        if not plan.reasons:
            out.print(f"{plan.stage}: nothing is pending", style="dim")
        for reason, count in plan.reasons.items():
            out.print(Text(f"{plan.stage}: {_count(reason, count)}, because {reason}"))
    out.print()
    for line in summary(planned):
        out.print(Text(line))


def _count(reason: str, count: int) -> str:
    from stages.plan import FOLLOWS
    from stages.reasons import NO_CALL

    most = "at most " if reason == FOLLOWS else ""
    return f"{most}{count:,} {'rows' if NO_CALL in reason else 'calls'}"


def summary(planned: Planned) -> list[str]:
    """The plan's sum in sentences: calls and dollars, missing prices, the budget."""
    stages, budget = planned.stages, planned.budget
    calls = sum(plan.calls for plan in stages)
    dollars = sum(plan.dollars or 0.0 for plan in stages)
    unpriced = sorted({plan.role for plan in stages if plan.dollars is None})
    lines = [
        f"In all {calls:,} calls, about ${dollars:,.2f}"
        + (" without the unpriced ones" if unpriced else "")
        + f"; ${planned.spent:,.2f} is spent on this root."
    ]
    if any(plan.guessed and plan.calls for plan in stages):
        lines.append("guess: no call of that stage has been made here yet to measure tokens by.")
    if unpriced:
        lines.append(no_price(unpriced))
    if budget.dollars is not None:
        lines.append(_against("dollars", budget.dollars - planned.spent, dollars, "${:,.2f}"))
        if unpriced:
            lines.append(
                "The budget in dollars cannot hold calls without a price: they count as $0. "
                "Set their prices, or VISPREF_BUDGET__TOKENS."
            )
    if budget.tokens is not None:
        tokens = sum(plan.prompt_tokens + plan.completion_tokens for plan in stages)
        lines.append(
            _against("tokens", budget.tokens - planned.spent_tokens, tokens, "{:,.0f} tokens")
        )
    return lines


def no_price(roles: list[str]) -> str:
    names = ", ".join(f"VISPREF_{role.upper()}__PRICE_IN and __PRICE_OUT" for role in roles)
    return (
        f"No price is set for {', '.join(roles)}: set {names} (dollars per million tokens), "
        "unless the endpoint is your own and free."
    )


def _against(what: str, left: float, needed: float, form: str) -> str:
    left = max(left, 0.0)
    fits = "enough for this plan" if needed <= left else "less than this plan: a build would stop"
    return f"The budget in {what} has {form.format(left)} left, {fits}."


STATUS_SQL = """
SELECT 'inputs' AS what, count(*) AS n, count(*) FILTER (WHERE status = 'refused') AS failed,
    0::BIGINT AS tokens, 0::DOUBLE AS dollars FROM inputs
UNION ALL SELECT 'images', count(*), 0, 0, 0 FROM images
UNION ALL SELECT 'neighbours', count(DISTINCT key), 0, 0, 0 FROM neighbours
"""


def print_status(root_url: str) -> None:
    root = built_root(root_url)
    current = read_current(root)
    out = console()
    sql = STATUS_SQL + "".join(
        f"UNION ALL SELECT '{table}', count(*), "
        f"(SELECT count(*) FROM failures WHERE stage = '{stage}'), "
        f"sum(prompt_tokens + completion_tokens), sum(cost_usd) FROM {table} "
        for stage, table in (
            ("caption", "captions"),
            ("resample", "answers"),
            ("extract", "extractions"),
            ("rewrite", "rewrites"),
        )
    )
    table = Table("table", box=None, pad_edge=False)
    for name in ("rows", "failed", "tokens", "cost"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in query(root, sql).to_pylist():
        tokens, dollars = row["tokens"] or 0, row["dollars"] or 0.0
        table.add_row(
            row["what"], f"{row['n']:,}", f"{row['failed']:,}", f"{tokens:,}", f"${dollars:,.4f}"
        )
    out.print(f"{root.url}: recipe {current['recipe']['name']}, newest run {current['run']}")
    out.print(table)
    _print_failures(out, root)
    _print_dataset(out, root, current["dataset"])
    write_catalog(root)


def _print_failures(out: Console, root: Root) -> None:
    found = query(
        root,
        "SELECT stage, error_class, count(*) AS rows, any_value(message) AS example "
        "FROM failures WHERE stage <> 'ingest' GROUP BY ALL ORDER BY rows DESC",
    )
    if found.num_rows:
        out.print("\nFailed rows (ask them afresh with vispref retry):")
        out.print(arrow_table(found))
    refused = query(
        root,
        "SELECT reason, count(*) AS records, any_value(message) AS example "
        "FROM inputs WHERE status = 'refused' GROUP BY ALL ORDER BY records DESC",
    )
    if refused.num_rows:
        out.print("\nRefused records:")
        out.print(arrow_table(refused))


def _print_dataset(out: Console, root: Root, dataset: str | None) -> None:
    if dataset is None:
        out.print("\nNo dataset is assembled yet.")
        return
    manifest = root.read_json(f"datasets/{dataset}/manifest.json")
    if manifest is None:
        out.print(f"\nDataset {dataset} was removed; vispref build makes it again.")
        return
    out.print(
        f"\nDataset {dataset}: {manifest['kept']:,} of {manifest['rows']:,} rows kept, "
        f"in {root.url_of(f'datasets/{dataset}')}"
    )
    out.print(
        arrow_table(
            query(
                root,
                "SELECT coalesce(reason, 'kept') AS outcome, count(*) AS rows FROM decisions "
                "GROUP BY ALL ORDER BY rows DESC",
            )
        )
    )


def print_outcome(root: Root, progress: Any, receipt: dict[str, Any]) -> None:
    out = console()
    stages = progress.stages.values()
    calls, cached = sum(s.calls for s in stages), sum(s.cached for s in stages)
    failed = sum(s.failed for s in stages if s.stage != "assemble")
    dollars = sum(s.cost_usd for s in stages)
    out.print(
        f"Dataset {receipt['dataset']}: {receipt['kept']:,} of {receipt['rows']:,} rows kept\n"
        f"  in {root.url_of(receipt['path'])}\n"
        f"  {calls:,} calls, {cached:,} answers from the cache, ${dollars:,.4f}, "
        f"{human_time(sum(s.seconds for s in stages))}"
    )
    for reason, count in sorted(receipt["drops"].items()):
        out.print(f"  dropped {count:,}: {reason}")
    if failed:
        out.print(
            f"  [red]{failed:,} rows failed[/]: vispref status --root {root.url} says why, "
            "vispref retry asks them afresh"
        )


def print_row(root_url: str, row: str) -> None:
    root = built_root(root_url)
    wanted = row.replace("'", "''")
    found = query(
        root, f"SELECT * FROM decisions WHERE starts_with(row_id, '{wanted}') LIMIT 2"
    ).to_pylist()
    if len(found) != 1:
        how_many = "no row" if not found else "more than one row"
        raise StorageError(
            f"{how_many} has an id that starts with {row!r}; "
            'list them with vispref query "SELECT row_id, prompt FROM decisions"'
        )
    out = console()
    decision = found[0]
    out.print(f"[bold]{decision['row_id']}[/]  {decision['split'] or 'dropped'}")
    out.print(Text(f"prompt: {decision['prompt']}"))
    if not decision["kept"]:
        out.print(f"dropped: {decision['reason']} {decision['detail'] or ''}")
        return
    pair = query(root, f"SELECT * FROM preferences WHERE row_id = '{decision['row_id']}'")
    _print_pair(out, root, pair.to_pylist()[0])


def _print_pair(out: Console, root: Root, pair: dict[str, Any]) -> None:
    out.print(f"image m:   {root.url_of(pair['image_path'])}")
    if pair["neighbour"]:
        cosines = f"CLIP {pair['clip_cosine']:.4f}"
        if pair["dino_cosine"] is not None:
            cosines += f", DINOv2 {pair['dino_cosine']:.4f}"
        out.print(
            f"image m':  {root.url_of(pair['neighbour_path'])}  ({pair['strategy']}: {cosines})"
        )
    claims = query(
        root,
        "SELECT side, claim, verdict, evidence, list(DISTINCT k ORDER BY k) AS answers "
        f"FROM lineage WHERE row_id = '{pair['row_id']}' GROUP BY ALL ORDER BY side, claim",
    ).to_pylist()
    for side in ("chosen", "rejected", "neighbour_chosen", "neighbour_rejected"):
        if pair[side] is None:
            continue
        out.print(f"\n[bold]{side}[/]")
        out.print(Text(pair[side]))
        for claim in claims:
            if claim["side"] == side:
                colour = VERDICT_COLOURS[claim["verdict"]]
                text = Text("  - " + claim["claim"], style=colour)
                text.append(f"  answers {claim['answers']}", style="dim")
                out.print(text)
