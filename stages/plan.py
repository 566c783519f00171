"""What a run would do: how many calls, tokens and dollars, and why. Changes nothing."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from config.settings import Endpoint
from sources.readers import read_records
from sources.records import BytesRef
from sources.spec import InputSpec
from stages.base import CallStage, Work
from stages.chain import CAPTION, EXTRACT, RESAMPLE, REWRITE
from stages.extract import extract_keys_sql
from stages.run import CALL_STAGES
from stages.units import units_sql
from storage.tables import Tables

# Tokens a call takes before any has been seen: (prompt without images, share of max_tokens).
GUESSED_PROMPT_TOKENS = {CAPTION: 150, RESAMPLE: 30, EXTRACT: 3500, REWRITE: 1500}
GUESSED_ANSWER_SHARE = 0.4


@dataclass
class StagePlan:
    """`pending` calls are sure; `waiting` ones depend on stages before: at most that many."""

    stage: str
    pending: int
    waiting: int
    reasons: dict[str, int] = field(default_factory=dict)
    prompt_tokens: int = 0
    completion_tokens: int = 0
    dollars: float = 0.0
    guessed: bool = False

    @property
    def calls(self) -> int:
        return self.pending + self.waiting


@dataclass(frozen=True)
class NewInput:
    """What an input holds that the root has not: by place and prompt, nothing is opened."""

    rows: int
    images: int


def new_input(work: Work, tables: Tables, spec: InputSpec) -> NewInput:
    """Counts the input's usable records that no ingest has accepted. Raises InputError."""
    source = tables.source("inputs", work.ingest)
    known = {
        (row["path"], row["prompt"])
        for row in tables.rows(f"SELECT path, prompt FROM {source} WHERE row_id IS NOT NULL")
    }
    places = {place for place, _ in known}
    rows: set[tuple[str, str]] = set()
    for record in read_records(spec):
        if record.problem is None and record.prompt is not None:
            rows.add((_place(record.image, record.position), record.prompt))
    fresh = rows - known
    return NewInput(len(fresh), len({place for place, _ in fresh} - places))


def _place(image: Any, position: int) -> str:
    if isinstance(image, BytesRef):
        return f"record {position}"
    return str(getattr(image, "path", None) or image.url)


def make_plan(work: Work, spec: InputSpec | None) -> list[StagePlan]:
    """The calling stages in order."""
    with work.tables() as tables:
        new = NewInput(0, 0) if spec is None else new_input(work, tables, spec)
        waiting = _waiting(work, tables)
        plans = []
        for stage in CALL_STAGES:
            plan = _pending(work, tables, stage)
            if waiting[stage.name]:
                plan.waiting += waiting[stage.name]
                plan.reasons["follows from the stages before"] = waiting[stage.name]
            if new.rows:
                calls = _calls_for(work, stage, new)
                plan.waiting += calls
                plan.reasons[f"{new.rows} new rows in the input"] = calls
            _price(work, tables, stage, plan)
            plans.append(plan)
    return plans


def _calls_for(work: Work, stage: CallStage, new: NewInput) -> int:
    units = 2 * new.rows  # (m, x) and (m', x)
    if stage.name == CAPTION:
        return new.images
    return units * work.recipe.resample.k if stage.name == RESAMPLE else units


def _waiting(work: Work, tables: Tables) -> dict[str, int]:
    """Units that a stage cannot start on yet, because an earlier stage has them pending."""
    units = int(tables.scalar(f"SELECT count(*) FROM {units_sql(work, tables)}"))
    ready = f"({extract_keys_sql(work, tables)})"
    comparable = int(tables.scalar(f"SELECT count(*) FROM {ready}"))
    extracted = int(
        tables.scalar(
            f"SELECT count(*) FROM {ready} AS k SEMI JOIN "
            f"{tables.source('extractions', work.chain.of(EXTRACT))} AS e ON e.key = k.key"
        )
    )
    return {CAPTION: 0, RESAMPLE: 0, EXTRACT: units - comparable, REWRITE: units - extracted}


def _pending(work: Work, tables: Tables, stage: CallStage) -> StagePlan:
    recipe = work.chain.of(stage.name)
    done = tables.source(stage.table, recipe)
    tables.execute(
        f"CREATE OR REPLACE TEMP TABLE planned AS SELECT k.key, k.unit "
        f"FROM ({stage.keys(work, tables)}) AS k ANTI JOIN {done} AS d ON d.key = k.key"
    )
    plan = StagePlan(stage.name, int(tables.scalar("SELECT count(*) FROM planned")), 0)
    if plan.pending:
        plan.reasons = _reasons(work, tables, stage)
    return plan


def _reasons(work: Work, tables: Tables, stage: CallStage) -> dict[str, int]:
    """Why rows are pending: failed before, the stage's recipe changed, its input changed, new."""
    recipe = work.chain.of(stage.name)
    identity = "unit" if stage.name in (EXTRACT, REWRITE) else "key"
    history = tables.history(stage.table)
    rows = tables.rows(
        f"WITH failed AS (SELECT DISTINCT key FROM {tables.source('failures', recipe)} "
        f"WHERE stage = '{stage.name}'), "
        f"own AS (SELECT DISTINCT {identity} AS i FROM {history} WHERE recipe = '{recipe}'), "
        f"others AS (SELECT {identity} AS i, max(recipe) AS recipe FROM {history} "
        f"WHERE recipe <> '{recipe}' GROUP BY i) "
        "SELECT CASE WHEN f.key IS NOT NULL THEN 'failed before' "
        "WHEN own.i IS NOT NULL THEN 'its input changed' "
        "WHEN others.i IS NOT NULL THEN others.recipe ELSE 'new' END AS why, count(*) AS n "
        f"FROM planned AS p LEFT JOIN failed AS f ON f.key = p.key "
        f"LEFT JOIN own ON own.i = p.{identity} LEFT JOIN others ON others.i = p.{identity} "
        "GROUP BY why ORDER BY why"
    )
    reasons: dict[str, int] = {}
    for row in rows:
        why = row["why"]
        if why not in ("failed before", "its input changed", "new"):
            why = _changes(work, stage.name, why)
        reasons[why] = reasons.get(why, 0) + row["n"]
    return reasons


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


def _price(work: Work, tables: Tables, stage: CallStage, plan: StagePlan) -> None:
    seen = tables.rows(
        "SELECT avg(prompt_tokens) AS p, avg(completion_tokens) AS c "
        f"FROM {tables.history(stage.table)}"
    )[0]
    endpoint: Endpoint = work.settings.endpoint(stage.role)
    if seen["p"] is None:
        images = endpoint.image_tokens if stage.name in (CAPTION, RESAMPLE) else 0
        prompt = GUESSED_PROMPT_TOKENS[stage.name] + images
        answer = GUESSED_ANSWER_SHARE * getattr(work.recipe, stage.name).max_tokens
        plan.guessed = True
    else:
        prompt, answer = seen["p"], seen["c"]
    plan.prompt_tokens = round(plan.calls * prompt)
    plan.completion_tokens = round(plan.calls * answer)
    plan.dollars = (
        plan.prompt_tokens * endpoint.price_in + plan.completion_tokens * endpoint.price_out
    ) / 1e6
