"""Embed images: CLIP for all, DINOv2 for those in a pair that CLIP has passed."""

from __future__ import annotations

from collections.abc import Iterator

from config import errors
from config.digest import digest
from stages.base import Row, Work
from stages.chain import EMBED_CLIP, EMBED_DINO
from stages.jobs import Compute, Job, Receipt, here
from stages.mine import images_to_compare
from stages.results import failure_row
from stages.units import images_sql
from storage import parts
from storage.schemas import FAILURES
from storage.vectors import TABLE, embedded_keys


def pending_images(work: Work, stage: str) -> list[Row]:
    """key and path of the images that have no vector yet under the stage's recipe, by digest."""
    recipe = work.chain.of(stage)
    with work.tables() as tables:
        rows = tables.rows(f"SELECT key, path FROM {images_sql(work, tables)} ORDER BY key")
        wanted = set(images_to_compare(work, tables)) if stage == EMBED_DINO else None
    done = embedded_keys(work.root, recipe)
    return [
        row for row in rows if row["key"] not in done and (wanted is None or row["key"] in wanted)
    ]


def embed(work: Work, stage: str, compute: Compute = here) -> None:
    """Embeds all that is pending, a batch a job. `compute` says where."""
    if stage not in work.chain.recipes:
        return
    rows = pending_images(work, stage)
    with work.progress.running(stage, len(rows)):
        work.check_going()
        for receipt in compute(stage, batches(work, stage, rows)):
            _keep(work, stage, receipt)
            work.check_going()


def batches(work: Work, stage: str, rows: list[Row]) -> Iterator[Job]:
    """The jobs; each one's work file is written as it is asked for."""
    settings, recipe = work.settings, work.recipe.embed
    size = max(settings.embedding.batch_size, settings.batch_rows)
    for start in range(0, len(rows), size):
        batch = rows[start : start + size]
        # Named by what is in it: a second try of the stage has other rows.
        out = f"work/{work.run_id}/{stage}/{digest([row['key'] for row in batch])[:16]}"
        work.root.write_json(f"{out}.json", batch)
        yield {
            "do": "embed",
            "root": work.root.url,
            "rows": f"{out}.json",
            "out": out,
            "kind": "clip" if stage == EMBED_CLIP else "dino",
            "model": str(recipe.clip_model if stage == EMBED_CLIP else recipe.dino_model),
            "identity": digest(work.chain.recipes[stage]["model"]),
            "cache_dir": str(settings.cache_dir),
            "embedding": settings.embedding.model_dump(mode="json"),
        }


def _keep(work: Work, stage: str, receipt: Receipt) -> None:
    recipe = work.chain.of(stage)
    if receipt["vectors"] is not None:
        parts.adopt(work.root, TABLE, recipe, receipt["vectors"])
    failed = [
        failure_row(work, stage, {"key": key, "unit": key, "nonce": 0}, getattr(errors, kind)(why))
        for key, (kind, why) in receipt["failed"].items()
    ]
    if failed:
        parts.write_rows(work.root, "failures", recipe, failed, FAILURES)
    work.progress.add(stage, done=receipt["rows"], failed=len(failed))
