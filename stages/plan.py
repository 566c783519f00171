"""What a run would do: how many calls, tokens and dollars, and why. Changes nothing."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from config.settings import ROLES, Endpoint, Role
from sources.readers import read_records
from sources.records import BytesRef
from sources.spec import InputSpec
from stages.base import CallStage, Work
from stages.calls import no_endpoint
from stages.chain import CAPTION, EXTRACT, RESAMPLE, REWRITE
from stages.extract import extract_keys_sql
from stages.reasons import reasons
from stages.run import CALL_STAGES
from stages.units import units_sql
from storage.tables import Tables

# Tokens a call takes before any has been seen: (prompt without images, share of max_tokens).
GUESSED_PROMPT_TOKENS = {CAPTION: 150, RESAMPLE: 30, EXTRACT: 3500, REWRITE: 1500}
GUESSED_ANSWER_SHARE = 0.4

FOLLOWS = "stages before it have calls to make"


@dataclass
class StagePlan:
    """`pending` calls are sure; `waiting` ones depend on stages before: at most that many.

    dollars: None where there are calls and the endpoint has no price.
    """

    stage: str
    role: Role
    pending: int
    waiting: int
    new: int = 0  # of the waiting calls, those for the input's new rows
    reasons: dict[str, int] = field(default_factory=dict)
    prompt_tokens: int = 0
    completion_tokens: int = 0
    dollars: float | None = 0.0
    guessed: bool = False

    @property
    def sure(self) -> int:
        return self.pending + self.new

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


def make_plan(work: Work, spec: InputSpec | None, *, retry: bool = False) -> list[StagePlan]:
    """The calling stages in order. retry: plan what `vispref retry` would do."""
    with work.tables() as tables:
        new = NewInput(0, 0) if spec is None else new_input(work, tables, spec)
        waiting = _waiting(work, tables)
        plans = []
        for stage in CALL_STAGES:
            plan = _pending(work, tables, stage, retry)
            if waiting[stage.name]:
                plan.waiting += waiting[stage.name]
                plan.reasons[FOLLOWS] = waiting[stage.name]
            if new.rows:
                calls = _calls_for(work, stage, new)
                plan.waiting += calls
                plan.new = calls
                first = "first run: " if work.ingest is None else ""
                plan.reasons[f"{first}{new.rows:,} new rows in the input"] = calls
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


def _pending(work: Work, tables: Tables, stage: CallStage, retry: bool) -> StagePlan:
    recipe = work.chain.of(stage.name)
    done = tables.source(stage.table, recipe)
    tables.execute(
        f"CREATE OR REPLACE TEMP TABLE planned AS SELECT k.key, k.unit "
        f"FROM ({stage.keys(work, tables)}) AS k ANTI JOIN {done} AS d ON d.key = k.key"
    )
    pending = int(tables.scalar("SELECT count(*) FROM planned"))
    plan = StagePlan(stage.name, stage.role, pending, 0)
    if pending:
        plan.reasons, free = reasons(work, tables, stage, retry)
        plan.pending -= free
    return plan


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
    if plan.calls and not (endpoint.price_in or endpoint.price_out):
        plan.dollars = None
        return
    plan.dollars = (
        plan.prompt_tokens * endpoint.price_in + plan.completion_tokens * endpoint.price_out
    ) / 1e6


def check_endpoints(work: Work, spec: InputSpec | None) -> None:
    """Raises RecipeError before hours of embedding, where calls are sure and have no endpoint."""
    missing = [role for role in ROLES if work.settings.endpoint(role).base_url is None]
    if not missing:
        return
    calls: dict[Role, int] = {}
    for plan in make_plan(work, spec):
        if plan.role in missing and plan.sure:
            calls[plan.role] = calls.get(plan.role, 0) + plan.sure
    if calls:
        raise no_endpoint(calls)
