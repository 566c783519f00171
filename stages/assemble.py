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

import yaml

from config.digest import canonical_json, digest
from curation.card import CardStats, StageCost, length_balance, render_card
from curation.pairs import Drop, PairInput, decide
from curation.splits import assign_splits
from prompts import load_prompt
from stages.base import Row, Work
from stages.chain import ASSEMBLE, CAPTION, EXTRACT, MINE, RESAMPLE, REWRITE, SCAN, TABLE_OF
from stages.extract import extract_keys_sql
from stages.rewrite import rewrite_keys_sql
from stages.run import versions
from stages.units import images_sql, neighbours_sql, rows_sql
from storage import parts
from storage.catalog import CURRENT, read_current
from storage.schemas import DECISIONS, PREFERENCES
from storage.tables import Tables

import pyarrow as pa

PART_ROWS = 10_000
CALLED = (CAPTION, RESAMPLE, EXTRACT, REWRITE)


def assemble(work: Work) -> dict[str, Any]:
    """Decides every row of the run and writes the dataset; gives its receipt."""
    with work.tables() as tables:
        _prepare(work, tables)
        total = int(tables.scalar("SELECT count(*) FROM joined"))
        work.progress.begin(ASSEMBLE, total)
        splits, reached = _splits(work, tables)
        rows_digest, kept, drops = _decide_all(work, tables, splits)
        dataset = digest({"recipe": work.recipe.digest, "rows": rows_digest})
        path = f"datasets/{dataset}"
        receipt = {
            "dataset": dataset,
            "path": path,
            "rows": total,
            "kept": kept,
            "drops": dict(sorted(drops.items())),
        }
        if not work.root.exists(f"{path}/manifest.json"):
            _write(work, tables, path, receipt, splits, reached)
    work.root.write_json(CURRENT, {**read_current(work.root), "dataset": dataset})
    work.progress.add(ASSEMBLE, done=total)
    work.progress.end(ASSEMBLE, note=f"{kept} kept")
    return receipt
