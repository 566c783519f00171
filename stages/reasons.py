"""Why a stage's rows are pending, in words a user can check: the half of a plan that explains."""

from __future__ import annotations

from stages.base import CallStage, Work
from stages.chain import EXTRACT, RESAMPLE, REWRITE
from storage.tables import Tables

# Failures that came with an answer: a build finds it in the response cache and pays nothing.
ANSWERED = ("InvalidAnswer", "EmptyAnswer", "RefusedAnswer", "TruncatedAnswer")

FIRST = "never asked before"
NO_CALL = "no call: the answer is kept"


def reasons(
    work: Work, tables: Tables, stage: CallStage, retry: bool
) -> tuple[dict[str, int], int]:
    """Pending rows by reason, and how many of them a build fails again without a call.

    Reads the temporary table `planned` (key, unit) of pending rows. A row failed before, was made
    under another recipe, was made from another input, is a sample added by a larger K, was lost
    with its table, or was never asked. retry: whether failed rows are asked afresh.
    """
    found: dict[str, int] = {}
    free = 0
    for row in tables.rows(_sql(work, tables, stage)):
        why, count = row["why"], row["n"]
        if row["failed"] is not None:
            why = f"failed before ({row['failed']})"
            if not retry and row["failed"] in ANSWERED:
                why += f", {NO_CALL}; vispref retry asks afresh"
                free += count
        elif why is None:
            why = _changes(work, stage.name, row["old_recipe"])
        found[why] = found.get(why, 0) + count
    if FIRST in found:
        lost = min(found[FIRST], _lost(work, tables, stage))
        found[f"lost from tables/{stage.table}; what the response cache holds is free"] = lost
        found[FIRST] -= lost
    return {why: count for why, count in found.items() if count}, free


def _sql(work: Work, tables: Tables, stage: CallStage) -> str:
    recipe = work.chain.of(stage.name)
    identity = "unit" if stage.name in (EXTRACT, REWRITE) else "key"
    history = tables.history(stage.table)
    added = "false"
    if stage.name == RESAMPLE:
        added = f"p.unit IN (SELECT unit FROM {history} WHERE recipe = '{recipe}')"
    return (
        "WITH failed AS (SELECT key, arg_max(error_class, failed_at) AS class "
        f"FROM {tables.source('failures', recipe)} WHERE stage = '{stage.name}' GROUP BY key), "
        f"own AS (SELECT DISTINCT {identity} AS i FROM {history} WHERE recipe = '{recipe}'), "
        # A run's id sorts by time: the newest of the other recipes is what an edit started from.
        f"others AS (SELECT {identity} AS i, arg_max(recipe, run_id) AS recipe FROM {history} "
        f"WHERE recipe <> '{recipe}' GROUP BY i), "
        "told AS (SELECT f.class AS failed, CASE WHEN f.key IS NOT NULL THEN NULL "
        "WHEN own.i IS NOT NULL THEN 'its input changed' "
        f"WHEN {added} THEN 'resample.k is now {work.recipe.resample.k}' "
        f"WHEN others.i IS NULL THEN '{FIRST}' END AS why, others.recipe AS old "
        "FROM planned AS p LEFT JOIN failed AS f ON f.key = p.key "
        f"LEFT JOIN own ON own.i = p.{identity} LEFT JOIN others ON others.i = p.{identity}) "
        "SELECT failed, why, CASE WHEN failed IS NULL AND why IS NULL THEN old END AS old_recipe, "
        "count(*) AS n FROM told GROUP BY ALL ORDER BY ALL"
    )


def _lost(work: Work, tables: Tables, stage: CallStage) -> int:
    """How many rows fewer the table holds than some run of the same recipe said it had made."""
    recipe, made = work.chain.of(stage.name), 0
    held = int(tables.scalar(f"SELECT count(*) FROM {tables.source(stage.table, recipe)}"))
    for run in sorted(work.root.fs.glob(f"{work.root.full('runs')}/*/receipt.json")):
        name = str(run).rsplit("/", 2)[-2]
        receipt = work.root.read_json(f"runs/{name}/receipt.json")
        started = work.root.read_json(f"runs/{name}/run.json")
        if started is None or started["digests"].get(stage.name) != recipe:
            continue
        made = max([made, *(s["done"] for s in receipt["stages"] if s["stage"] == stage.name)])
    return max(0, made - held)


def _changes(work: Work, stage: str, old_recipe: str) -> str:
    """In words, how the stage's recipe differs from an older one."""
    old = work.root.read_json(f"recipes/{stage}/{old_recipe}.json")
    new = work.chain.recipes[stage]
    if old is None:
        return f"the {stage} recipe changed"
    changed = sorted(key for key in old.keys() | new.keys() if old.get(key) != new.get(key))
    told = []
    for key in changed:
        if key == "prompt":
            told.append(f"the {stage} prompt changed")
        else:
            told.append(f"{stage}.{key} changed from {old.get(key)!r} to {new.get(key)!r}")
    return "; ".join(told)
