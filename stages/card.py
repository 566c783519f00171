"""Gather what the dataset card says, and write it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from curation.card import (
    CardStats,
    ModelUse,
    PromptUse,
    StageCost,
    length_balance,
    render_card,
    summarise_cosines,
)
from curation.splits import Splits
from stages.base import Work
from stages.chain import CAPTION, EMBED_CLIP, EMBED_DINO, EXTRACT, RESAMPLE, REWRITE, TABLE_OF
from stages.units import images_sql
from storage.tables import Tables, parquet_source

CALLED = (CAPTION, RESAMPLE, EXTRACT, REWRITE)
READ_ROWS = 5_000


def write_card(work: Work, tables: Tables, receipt: dict[str, Any], splits: Splits) -> None:
    """Writes the dataset's README.md from its tables."""
    card = render_card(card_stats(work, tables, receipt, splits))
    work.root.write_bytes(f"{receipt['path']}/README.md", card.encode())


def card_stats(work: Work, tables: Tables, receipt: dict[str, Any], splits: Splits) -> CardStats:
    recipe, kept = work.recipe, receipt["kept"]
    written = parquet_source(work.root, f"{receipt['path']}/preferences/*.parquet")
    texts = f"SELECT chosen, rejected FROM {written}"
    inputs = tables.source("inputs", work.ingest)
    refused = tables.rows(
        f"SELECT reason, count(*) AS n FROM {inputs} WHERE status = 'refused' GROUP BY reason"
    )
    contrasts = f"SELECT count(*) FROM {written} WHERE neighbour IS NOT NULL"
    return CardStats(
        name=recipe.name,
        dataset_digest=receipt["dataset"],
        recipe_digest=recipe.digest,
        strategy=recipe.mine.strategy,
        thresholds=_thresholds(work),
        rows=receipt["rows"],
        kept=kept,
        contrasts=int(tables.scalar(contrasts)) if kept else 0,
        images=int(tables.scalar(f"SELECT count(*) FROM {images_sql(work, tables)}")),
        refused={row["reason"]: row["n"] for row in refused},
        drops=receipt["drops"],
        shares=recipe.assemble.split,
        splits=splits,
        lengths=length_balance(_pairs(tables, texts)) if kept else None,
        cosines=[
            summarise_cosines(name, _values(tables, f"SELECT {column} FROM {written}"))
            for name, column in (("CLIP", "clip_cosine"), ("DINOv2", "dino_cosine"))
            if kept and tables.scalar(f"SELECT count({column}) FROM {written}")
        ],
        models=_models(work),
        prompts=_prompts(work),
        stages=[_cost(work, tables, stage) for stage in CALLED],
        failures=_failures(work, tables),
    )


def _thresholds(work: Work) -> dict[str, float]:
    mine = work.recipe.mine
    found = {"near_duplicate": mine.near_duplicate}
    if mine.strategy == "blind":
        found |= {"clip_min": mine.clip_min, "dino_max": mine.dino_max}
    return found


def _pairs(tables: Tables, sql: str) -> Iterator[tuple[str, str]]:
    for batch in tables.batches(sql, READ_ROWS):
        yield from zip(batch.column(0).to_pylist(), batch.column(1).to_pylist(), strict=True)


def _values(tables: Tables, sql: str) -> Iterator[float]:
    for batch in tables.batches(sql, READ_ROWS):
        yield from (value for value in batch.column(0).to_pylist() if value is not None)


def _models(work: Work) -> list[ModelUse]:
    recipe = work.recipe
    found = []
    for stage, role in ((EMBED_CLIP, "CLIP"), (EMBED_DINO, "DINOv2")):
        if stage in work.chain.recipes:
            model = work.chain.recipes[stage]["model"]
            found.append(ModelUse(role, model["name"], model.get("weights_digest")))
    for role, name in (
        ("captioner", recipe.caption.model),
        ("reference", recipe.resample.model),
        ("claims, extraction", recipe.extract.model),
        ("claims, rewriting", recipe.rewrite.model),
    ):
        found.append(ModelUse(role, name))
    return found


def _prompts(work: Work) -> list[PromptUse]:
    return [PromptUse(stage, p.name, p.digest) for stage, p in work.chain.prompts.items()]


def _cost(work: Work, tables: Tables, stage: str) -> StageCost:
    recipe = work.chain.of(stage)
    row = tables.rows(
        "SELECT count(*) AS n, coalesce(sum(attempts), 0)::BIGINT AS calls, "
        "coalesce(sum(prompt_tokens), 0)::BIGINT AS p, "
        "coalesce(sum(completion_tokens), 0)::BIGINT AS c, coalesce(sum(cost_usd), 0) AS usd "
        f"FROM {tables.source(TABLE_OF[stage], recipe)}"
    )[0]
    return StageCost(
        stage, row["n"], _failed(work, tables, stage), row["calls"], row["p"], row["c"], row["usd"]
    )


def _failed(work: Work, tables: Tables, stage: str) -> int:
    return sum(count for name, _, count in _failures(work, tables) if name == stage)


def _failures(work: Work, tables: Tables) -> list[tuple[str, str, int]]:
    """Failed rows that have no output since, by stage and class of error."""
    found: list[tuple[str, str, int]] = []
    for stage in CALLED:
        recipe = work.chain.of(stage)
        rows = tables.rows(
            "SELECT error_class, count(*) AS n FROM (SELECT f.key, "
            "arg_max(f.error_class, f.failed_at) AS error_class "
            f"FROM {tables.source('failures', recipe)} AS f "
            f"ANTI JOIN {tables.source(TABLE_OF[stage], recipe)} AS o ON o.key = f.key "
            f"WHERE f.stage = '{stage}' GROUP BY f.key) GROUP BY error_class ORDER BY error_class"
        )
        found += [(stage, row["error_class"], row["n"]) for row in rows]
    return found
