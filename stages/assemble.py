"""Put the symmetric rows together: kept or dropped with a reason, split, and written as a dataset.

One row serves SymMPO and JoMPO: (m, x, y_w, y_l) and (m', x, y'_w, y'_l). The dataset's digest
covers its rows and the recipe; its manifest is written last, so a folder without one is no
dataset.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import yaml

from config.digest import canonical_json, digest
from curation.pairs import Drop, PairInput, decide
from curation.splits import Splits, assign_splits
from stages.base import Row, Work
from stages.card import write_card
from stages.chain import ASSEMBLE
from stages.joined import alike_sql, create_joined
from stages.run import versions
from storage import parts
from storage.catalog import CURRENT, read_current
from storage.schemas import DECISIONS, PREFERENCES
from storage.tables import Tables

PART_ROWS = 5_000
READ_ROWS = 1_000
CONTRAST = ("neighbour", "neighbour_path", "neighbour_chosen", "neighbour_rejected",
            "clip_cosine", "dino_cosine", "strategy", "neighbour_id", "neighbour_rewrite_id")  # fmt: skip
# What the dataset's digest covers: what training reads, not when or by which run it was made.
DIGESTED = ("row_id", "prompt", "image", "chosen", "rejected", "neighbour", "neighbour_chosen",
            "neighbour_rejected", "external_ids")  # fmt: skip


def assemble(work: Work) -> dict[str, Any]:
    """Decides every row of the run and writes the dataset; gives its receipt."""
    with work.tables() as tables:
        create_joined(work, tables)
        total = int(tables.scalar("SELECT count(*) FROM joined"))
        work.progress.begin(ASSEMBLE, total)
        rows_digest, kept, drops = _decide_all(work, tables)
        splits = assign_splits(
            kept, _alike(work, tables), work.recipe.assemble.split, work.recipe.seed
        )
        # The sides too: they hang on near duplicates, which need not be among the rows.
        dataset = digest(
            {"recipe": work.recipe.digest, "rows": rows_digest, "sides": digest(splits.sides)}
        )
        receipt: dict[str, Any] = {
            "dataset": dataset,
            "path": f"datasets/{dataset}",
            "rows": total,
            "kept": len(kept),
            "drops": dict(sorted(drops.items())),
            "splits": splits.rows,
        }
        _write(work, tables, receipt, splits)
    work.root.write_json(CURRENT, {**read_current(work.root), "dataset": dataset})
    work.progress.add(ASSEMBLE, done=total)
    work.progress.end(ASSEMBLE, note=f"{len(kept)} kept")
    return receipt


def _read(tables: Tables) -> Iterator[Row]:
    for batch in tables.batches("SELECT * FROM joined ORDER BY row_id", READ_ROWS):
        yield from batch.to_pylist()


def _outcome(work: Work, row: Row) -> tuple[Row, Drop | None]:
    """The preference row, and why it is dropped where it is."""
    known = PairInput(
        prompt=row["prompt"],
        chosen=row["chosen"],
        rejected=row["rejected"],
        neighbour=row["neighbour"],
        neighbour_chosen=row["neighbour_chosen"],
        neighbour_rejected=row["neighbour_rejected"],
        failed_stage=row["failed_stage"],
        pending_stage=row["pending_stage"],
        neighbour_failed_stage=row["neighbour_failed_stage"],
        neighbour_pending_stage=row["neighbour_pending_stage"],
    )
    decision = decide(known, work.recipe.assemble)
    if isinstance(decision, Drop):
        return row, decision
    return (row if decision.contrast else {**row, **dict.fromkeys(CONTRAST)}), None


def _decide_all(
    work: Work, tables: Tables
) -> tuple[str, list[tuple[str, str | None]], Counter[str]]:
    """The rows' digest, the (m, m') of the kept ones in order of row_id, and drops by reason."""
    hashed = hashlib.sha256()
    kept: list[tuple[str, str | None]] = []
    drops: Counter[str] = Counter()
    for row in _read(tables):
        found, drop = _outcome(work, row)
        if drop is None:
            kept.append((found["image"], found["neighbour"]))
            hashed.update(canonical_json([found[name] for name in DIGESTED]))
        else:
            drops[drop.reason.value] += 1
            hashed.update(canonical_json([found["row_id"], drop.reason.value]))
    return hashed.hexdigest(), kept, drops


def _alike(work: Work, tables: Tables) -> Iterator[tuple[str, str]]:
    for batch in tables.batches(alike_sql(work, tables), 10_000):
        yield from zip(batch.column(0).to_pylist(), batch.column(1).to_pylist(), strict=True)


def _write(work: Work, tables: Tables, receipt: dict[str, Any], splits: Splits) -> None:
    """Writes the dataset's folder, its manifest last. One that is whole is left as it is."""
    path = receipt["path"]
    if work.root.exists(f"{path}/manifest.json"):
        return
    work.root.remove(path)  # a folder without a manifest is a write that was cut short
    files = _write_rows(work, tables, path, splits)
    recipe = yaml.safe_dump(work.recipe.model_dump(mode="json"), sort_keys=False)
    work.root.write_bytes(f"{path}/recipe.yaml", recipe.encode())
    write_card(work, tables, receipt, splits)
    work.root.write_json(
        f"{path}/manifest.json",
        {
            **receipt,
            "files": files,
            "recipe_digest": work.recipe.digest,
            "stage_recipes": work.chain.recipes,
            "stage_digests": work.chain.digests,
            "versions": versions(),
            "run": work.run_id,
        },
    )


def _write_rows(
    work: Work, tables: Tables, path: str, splits: Splits
) -> list[dict[str, str | int]]:
    files: list[dict[str, str | int]] = []
    preferences: list[Row] = []
    decisions: list[Row] = []
    sides = iter(splits.sides)

    def flush(last: bool) -> None:
        for name, rows, schema in (
            ("preferences", preferences, PREFERENCES),
            ("decisions", decisions, DECISIONS),
        ):
            if len(rows) >= PART_ROWS or (last and rows):
                files.append(_write_part(work, path, name, len(files), rows, schema))
                rows.clear()

    for row in _read(tables):
        found, drop = _outcome(work, row)
        side = next(sides) if drop is None else None
        if drop is None:
            preferences.append({**{f.name: found.get(f.name) for f in PREFERENCES}, "split": side})
        decisions.append(
            {
                "row_id": row["row_id"],
                "image": row["image"],
                "prompt": row["prompt"],
                "kept": drop is None,
                "reason": None if drop is None else drop.reason.value,
                "detail": None if drop is None else drop.detail,
                "split": side,
            }
        )
        flush(last=False)
    flush(last=True)
    return files


def _write_part(
    work: Work, path: str, name: str, number: int, rows: list[Row], schema: pa.Schema
) -> dict[str, str | int]:
    data = parts.to_parquet(pa.Table.from_pylist(rows, schema=schema))
    file = f"{path}/{name}/part-{number:05d}.parquet"
    work.root.write_bytes(file, data)
    return {
        "path": file.removeprefix(f"{path}/"),
        "rows": len(rows),
        "sha256": hashlib.sha256(data).hexdigest(),
    }
