"""Compare all images by CLIP cosine: each one's nearest other, or every pair above a threshold.

`nearest` (SymMPO) gives every image its nearest other image; `blind` (JoMPO) writes every pair
above clip_min. "Other" is by content; pairs above the near-duplicate ceiling are kept apart.
Images added later are compared with all, and those compared before are left as they are. "All"
holds the images that were compared once and are not among the rows now: should they come back,
no pair is unknown.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from config.digest import bytes_digest, digest
from curation.cosines import EdgeCounts
from stages.base import Row, Work
from stages.chain import EMBED_CLIP, SCAN
from stages.jobs import Compute, Receipt, here
from stages.scan_job import PART_ROWS, scan_file
from stages.units import images_sql
from storage import parts
from storage.mending import drop_duplicates
from storage.schemas import SCANS
from storage.tables import Tables
from storage.vectors import embedded_keys

NONE = (None, None)  # the strategy `blind` looks for no neighbour


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


def scan(work: Work, compute: Compute = here) -> None:
    """Compares the pending images with all. One unit of work: it is done whole or again.

    `compute` says where the shards are done.
    """
    with work.tables() as tables:
        keys = comparable_images(work, tables)
        scans = newest_scans(work, tables)
        absent = sorted((scans.keys() - set(keys)) & embedded_keys(work.root, clip_recipe(work)))
    pending = pending_images(work, keys, scans)
    with work.progress.running(SCAN, int(pending.sum())):
        if pending.any():
            work.check_going()
            found = Comparison(work, compute, keys, absent, pending)
            if work.recipe.mine.strategy == "nearest":
                found.nearest()
            else:
                found.pairs_above_clip_min(_generation(scans))
            _write_scans(work, keys, pending, found.neighbours, scans)
            with work.tables() as tables:  # a scan that was cut short has left pairs behind
                drop_duplicates(work.root, tables, "pairs", work.chain.of(SCAN))
            work.progress.add(SCAN, done=int(pending.sum()))


def clip_recipe(work: Work) -> str:
    return work.chain.of(EMBED_CLIP)


@dataclass
class Comparison:
    """What the shards of one scan found. `neighbours`: key to neighbour and cosine, if any."""

    work: Work
    compute: Compute
    keys: list[str]
    absent: list[str]
    pending: np.ndarray
    neighbours: dict[str, tuple[str | None, float | None]] = field(default_factory=dict)

    def nearest(self) -> None:
        for receipt in self._shards("nearest", self.keys, {}):
            found = parts.read_part(self.work.root, receipt["neighbours"])
            columns = [found.column(name).to_pylist() for name in found.column_names]
            self.neighbours |= {
                key: (name, cosine) for key, name, cosine in zip(*columns, strict=True)
            }
        if self.absent:
            # Near duplicates among pending images and those compared but not in the rows now.
            fresh = [self.keys[place] for place in np.flatnonzero(self.pending)]
            self._pairs_above(self.work.recipe.mine.near_duplicate, [*fresh, *self.absent], ())

    def pairs_above_clip_min(self, generation: int) -> None:
        threshold = self.work.recipe.mine.clip_min
        edges = EdgeCounts.around(threshold).edges
        above = self._pairs_above(threshold, [*self.keys, *self.absent], edges)
        self.work.root.write_json(
            f"{_counts_folder(self.work)}/{generation:06d}.json", {"edges": edges, "above": above}
        )

    def _pairs_above(
        self, threshold: float, keys: list[str], edges: tuple[float, ...]
    ) -> list[int]:
        """Writes the pairs of pending images with all of `keys`; how many lie above each edge."""
        above = np.zeros(len(edges), np.int64)
        more = {
            "threshold": threshold,
            "edges": edges,
            "device": self.work.settings.embedding.device,
        }
        for receipt in self._shards("pairs", sorted(keys), more):
            above += np.array(receipt["above"], np.int64)
        counted: list[int] = above.tolist()
        return counted

    def _shards(self, rule: str, keys: list[str], more: Row) -> Iterator[Receipt]:
        """The receipts of the shards, whose pairs are kept."""
        work = self.work
        fresh = {self.keys[place] for place in np.flatnonzero(self.pending)}
        data = scan_file(keys, np.array([key in fresh for key in keys], dtype=bool))
        # Named by its content: a second try of the stage may compare other images.
        out = f"work/{work.run_id}/{SCAN}/{rule}-{bytes_digest(data)[:16]}"
        work.root.write_bytes(f"{out}.parquet", data)
        shared = {
            "do": rule,
            "root": work.root.url,
            "images": f"{out}.parquet",
            "vectors": clip_recipe(work),
            "near_duplicate": work.recipe.mine.near_duplicate,
            "block": work.settings.mine_block,
            **more,
        }
        jobs = (
            {**shared, "start": start, "stop": stop, "out": f"{out}-{start:09d}"}
            for start, stop in shards(len(fresh), work.settings.mine_block)
        )
        for receipt in self.compute(SCAN, jobs):
            for path in receipt["pairs"]:
                parts.adopt(work.root, "pairs", work.chain.of(SCAN), path)
            yield receipt
            work.check_going()


def shards(images: int, size: int) -> Iterator[tuple[int, int]]:
    """Ranges of at most `size` images that cover all."""
    for start in range(0, images, size):
        yield start, min(images, start + size)


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


def _generation(scans: dict[str, Scanned]) -> int:
    return max((found.generation for found in scans.values()), default=-1) + 1


def _write_scans(
    work: Work,
    keys: list[str],
    pending: np.ndarray,
    neighbours: dict[str, tuple[str | None, float | None]],
    scans: dict[str, Scanned],
) -> None:
    image_set, generation = digest(keys), _generation(scans)
    scanned = [keys[index] for index in np.flatnonzero(pending)]
    rows: list[Row] = [
        {
            "key": key,
            "neighbour": neighbours.get(key, NONE)[0],
            "clip_cosine": neighbours.get(key, NONE)[1],
            "image_set": image_set,
            "generation": generation,
        }
        for key in scanned
    ]
    for start in range(0, len(rows), PART_ROWS):
        parts.write_rows(
            work.root, "scans", work.chain.of(SCAN), rows[start : start + PART_ROWS], SCANS
        )
