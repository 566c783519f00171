"""A dataset root with every stage before `rewrite` done, made without calling any model."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from config.digest import digest, text_digest
from config.recipe import Recipe, load_recipe
from config.settings import Endpoint, Settings
from stages.base import Work, row_identity, unit_id
from stages.chain import CAPTION, EXTRACT, IMAGES, RESAMPLE, make_chain
from storage import parts
from storage.catalog import CURRENT
from storage.root import Root
from storage.schemas import TABLES

INGEST = "synthetic"
PART_ROWS = 10_000


def recipe(model: str = "stand-in-claims") -> Recipe:
    return load_recipe(
        "symmpo",
        {"resample.k": 1, "assemble.require_neighbour": False, "rewrite.model": model},
    )


def open_synthetic(
    root: Path, cache: Path, base_url: str, concurrency: int, batch_rows: int = 256, **endpoint: Any
) -> Work:
    """A run on such a root, all three roles at one URL."""
    role = Endpoint(base_url=base_url, concurrency=concurrency, **endpoint)
    settings = Settings(
        captioner=role,
        reference=role,
        claims=role,
        cache_dir=cache,
        batch_rows=batch_rows,
        duckdb_memory="256MB",
    )
    chain = make_chain(recipe(), {"name": "none"}, None)
    return Work(Root(root), chain, settings, run_id="benchmark", ingest=INGEST)


def make_root(path: Path, rows: int) -> None:
    """Writes the tables in parts, so that making a large root takes little memory."""
    work = open_synthetic(path, path / "cache", "http://127.0.0.1:9/v1", 1)
    _ = work.root.id
    for start in range(0, rows, PART_ROWS):
        tables: dict[str, list[dict[str, Any]]] = {}
        for number in range(start, min(rows, start + PART_ROWS)):
            for table, row in _rows(work, number):
                tables.setdefault(table, []).append(row)
        for table, made in tables.items():
            recipe_of = {
                "inputs": INGEST,
                "images": IMAGES,
                "captions": work.chain.of(CAPTION),
                "answers": work.chain.of(RESAMPLE),
                "extractions": work.chain.of(EXTRACT),
                "claims": work.chain.of(EXTRACT),
            }[table]
            parts.write_rows(work.root, table, recipe_of, made, TABLES[table])
    work.root.write_json(
        CURRENT, {"ingest": INGEST, "digests": work.chain.digests, "dataset": None}
    )


def _rows(work: Work, number: int) -> Iterator[tuple[str, dict[str, Any]]]:
    image = text_digest(f"image {number}") * 2
    prompt = f"What is in picture {number}?"
    unit = unit_id(image, prompt)
    caption = f"Picture {number} shows a red mug on a table beside two books. " * 6
    answer = f"There is a red mug and a dog number {number}. " * 4
    accounting = {"model": "mock", "prompt_tokens": 1, "completion_tokens": 1, "cost_usd": 0.0}
    yield "inputs", {
        "ingest": INGEST, "source": "synthetic", "position": number, "item": 0,
        "status": "accepted", "row_id": unit, "image": image, "prompt": prompt,
    }  # fmt: skip
    yield "images", {"key": image, "path": f"images/{image[:2]}/{image}.jpg"}
    yield "captions", {
        "id": row_identity(work.chain.of(CAPTION), image), "key": image, "image": image,
        "text": caption, "content": text_digest(caption), **accounting,
    }  # fmt: skip
    key = f"{unit}:0"
    answer_id = row_identity(work.chain.of(RESAMPLE), key)
    yield "answers", {
        "id": answer_id, "key": key, "unit": unit, "image": image, "prompt": prompt, "k": 0,
        "seed": 0, "text": answer, "content": text_digest(answer), **accounting,
    }  # fmt: skip
    # The extraction's key, as `extract_keys_sql` makes it of one answer.
    answers = int.from_bytes(hashlib.md5(f"0:{text_digest(answer)}".encode()).digest(), "little")
    compared = text_digest(f"{unit}:{text_digest(caption)}:{answers}")
    extraction = row_identity(work.chain.of(EXTRACT), compared)
    yield "extractions", {
        "id": extraction, "key": compared, "unit": unit, "caption_id": "", "answer_ids": [answer_id],
        "consistent": 3, "inconsistent": 3, "unverifiable": 0, "content": digest([unit]),
        "style_example": answer, **accounting,
    }  # fmt: skip
    for claim in range(6):
        yield "claims", {
            "id": row_identity(work.chain.of(EXTRACT), f"{compared}:{claim}"),
            "key": f"{compared}:{claim}", "extraction_id": extraction, "unit": unit,
            "number": claim, "text": f"There is object {claim} in picture {number}.",
            "verdict": "consistent" if claim < 3 else "inconsistent", "evidence": "",
            "answer_ids": [answer_id],
        }  # fmt: skip
