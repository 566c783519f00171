"""Compare all images by CLIP cosine: each one's nearest other, or every pair above a threshold.

`nearest` (SymMPO) gives every image its nearest other image; `blind` (JoMPO) writes every pair
above clip_min. "Other" is by content; pairs above the near-duplicate ceiling are kept apart.
Images added later are compared with all, and those compared before are left as they are. "All"
holds the images that were compared once and are not among the rows now: should they come back,
no pair is unknown.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from config.digest import digest
from curation.blind import PairBlock, pairs_above
from curation.cosines import EdgeCounts
from curation.nearest import nearest
from models.product import block_product
from stages.base import Row, Work
from stages.chain import EMBED_CLIP, SCAN
from stages.units import images_sql
from storage import parts
from storage.mending import drop_duplicates
from storage.schemas import PAIRS, SCANS
from storage.tables import Tables
from storage.vectors import embedded_keys, load_vectors

PART_ROWS = 50_000


@dataclass(frozen=True)
class Scanned:
    """The newest scan of an image."""

    neighbour: str | None
    image_set: str
    generation: int


def comparable_images(work: Work, tables: Tables) -> list[str]:
    """The run's images that have a CLIP vector, in the order of their digests."""
    named = tables.table(f"SELECT key FROM {images_sql(work, tables)}").column("key").to_pylist()
    return sorted(set(named) & embedded_keys(work.root, work.chain.of(EMBED_CLIP)))


def newest_scans(work: Work, tables: Tables) -> dict[str, Scanned]:
    source = tables.source("scans", work.chain.of(SCAN))
    rows = tables.rows(
        "SELECT key, max_by({'n': neighbour, 's': image_set, 'g': generation}, generation) AS s "
        f"FROM {source} GROUP BY key"
    )
    return {row["key"]: Scanned(row["s"]["n"], row["s"]["s"], row["s"]["g"]) for row in rows}


def pending_images(work: Work, keys: list[str], scans: dict[str, Scanned]) -> np.ndarray:
    """bool [N]: which images are to be compared with all others."""
    image_set, present = digest(keys), set(keys)
    refresh = work.recipe.mine.update == "refresh"

    def stale(key: str) -> bool:
        found = scans.get(key)
        if found is None:
            return True
        if work.recipe.mine.strategy == "blind" or found.image_set == image_set:
            return False  # all pairs of images scanned before are known
        return refresh or found.neighbour is None or found.neighbour not in present

    return np.array([stale(key) for key in keys], dtype=bool)


def scan(work: Work) -> None:
    """Compares the pending images with all. One unit of work: it is done whole or again."""
    with work.tables() as tables:
        keys = comparable_images(work, tables)
        scans = newest_scans(work, tables)
        absent = sorted((scans.keys() - set(keys)) & embedded_keys(work.root, clip_recipe(work)))
    pending = pending_images(work, keys, scans)
    work.progress.begin(SCAN, int(pending.sum()))
    if pending.any():
        if work.recipe.mine.strategy == "nearest":
            vectors = load_vectors(work.root, clip_recipe(work), keys)
            neighbours, cosines = _scan_nearest(work, keys, vectors, pending)
            _link_absent(work, keys, absent, pending)
        else:
            neighbours, cosines = _scan_blind(work, keys, absent, pending, scans)
        _write_scans(work, keys, pending, neighbours, cosines, scans)
        with work.tables() as tables:  # a scan that was cut short has left pairs behind
            drop_duplicates(work.root, tables, "pairs", work.chain.of(SCAN))
        work.progress.add(SCAN, done=int(pending.sum()))
    work.progress.end(SCAN)


def clip_recipe(work: Work) -> str:
    return work.chain.of(EMBED_CLIP)


def _link_absent(work: Work, keys: list[str], absent: list[str], pending: np.ndarray) -> None:
    """Near duplicates among pending images and those that are compared but not in the rows now."""
    if not absent:
        return
    fresh = [keys[place] for place in np.flatnonzero(pending)]
    both = sorted([*fresh, *absent])
    away = set(absent)
    blocks = pairs_above(
        load_vectors(work.root, clip_recipe(work), both),
        work.recipe.mine.near_duplicate,
        block=work.settings.mine_block,
        is_new=np.array([key not in away for key in both], dtype=bool),
        product=block_product(work.settings.embedding.device),
    )
    for block in blocks:
        _write_pairs(work, both, block)


def _scan_nearest(
    work: Work, keys: list[str], vectors: np.ndarray, pending: np.ndarray
) -> tuple[list[str | None], list[float | None]]:
    found = nearest(
        vectors,
        np.flatnonzero(pending).astype(np.int64),
        ceiling=work.recipe.mine.near_duplicate,
        block=work.settings.mine_block,
    )
    _write_pairs(work, keys, found.duplicates)
    names = [None if n < 0 else keys[n] for n in found.neighbour.tolist()]
    cosines = [
        None if name is None else cosine
        for name, cosine in zip(names, found.cosine.tolist(), strict=True)
    ]
    return names, cosines


def _scan_blind(
    work: Work,
    keys: list[str],
    absent: list[str],
    pending: np.ndarray,
    scans: dict[str, Scanned],
) -> tuple[list[str | None], list[float | None]]:
    both = sorted([*keys, *absent])
    fresh = {keys[place] for place in np.flatnonzero(pending)}
    is_new = np.array([key in fresh for key in both], dtype=bool)
    counts = EdgeCounts.around(work.recipe.mine.clip_min)
    blocks = pairs_above(
        load_vectors(work.root, clip_recipe(work), both),
        work.recipe.mine.clip_min,
        block=work.settings.mine_block,
        is_new=None if is_new.all() else is_new,
        product=block_product(work.settings.embedding.device),
        counts=counts,
    )
    for block in blocks:
        _write_pairs(work, both, block)
    generation = _generation(scans)
    work.root.write_json(
        f"{_counts_folder(work)}/{generation:06d}.json",
        {"edges": list(counts.edges), "above": counts.above.tolist()},
    )
    n = int(pending.sum())
    return [None] * n, [None] * n


def _counts_folder(work: Work) -> str:
    return f"tables/pairs/{work.chain.of(SCAN)}/counts"


def edge_counts(work: Work) -> EdgeCounts | None:
    """How many pairs lie above each neighbouring CLIP threshold, over all scans. None: none ran."""
    total: EdgeCounts | None = None
    for path in work.root.list(_counts_folder(work), ".json"):
        found: dict[str, Any] = work.root.read_json(path)
        counts = EdgeCounts.at(tuple(found["edges"]))
        counts.above += np.array(found["above"], dtype=np.int64)
        if total is None:
            total = counts
        else:
            total.above += counts.above
    return total


def _write_pairs(work: Work, keys: list[str], block: PairBlock) -> None:
    ceiling = np.float32(work.recipe.mine.near_duplicate)
    for start in range(0, len(block), PART_ROWS):
        a = block.a[start : start + PART_ROWS].tolist()
        b = block.b[start : start + PART_ROWS].tolist()
        cosines = block.cosine[start : start + PART_ROWS]
        rows: list[Row] = [
            {
                "key": f"{keys[i]}:{keys[j]}",
                "image_a": keys[i],
                "image_b": keys[j],
                "clip_cosine": float(cosine),
                "near_duplicate": bool(cosine > ceiling),
            }
            for i, j, cosine in zip(a, b, cosines, strict=True)
        ]
        parts.write_rows(work.root, "pairs", work.chain.of(SCAN), rows, PAIRS)


def _generation(scans: dict[str, Scanned]) -> int:
    return max((found.generation for found in scans.values()), default=-1) + 1


def _write_scans(
    work: Work,
    keys: list[str],
    pending: np.ndarray,
    neighbours: list[str | None],
    cosines: list[float | None],
    scans: dict[str, Scanned],
) -> None:
    image_set, generation = digest(keys), _generation(scans)
    scanned = [keys[index] for index in np.flatnonzero(pending)]
    rows: list[Row] = [
        {
            "key": key,
            "neighbour": neighbour,
            "clip_cosine": cosine,
            "image_set": image_set,
            "generation": generation,
        }
        for key, neighbour, cosine in zip(scanned, neighbours, cosines, strict=True)
    ]
    for start in range(0, len(rows), PART_ROWS):
        parts.write_rows(
            work.root, "scans", work.chain.of(SCAN), rows[start : start + PART_ROWS], SCANS
        )
