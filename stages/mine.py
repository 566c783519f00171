"""Give every image its contrastive image m', and say how the thresholds lie.

Cheap beside the scan: it is worked out anew for all images, and only what changed is written.
With `update: keep` an image keeps the m' it has, so that added images change no finished row.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from curation.blind import is_blind
from curation.cosines import (
    EdgeCounts,
    Histogram,
    JointCounts,
    pair_cosines,
    sampled_histogram,
    yields,
)
from stages.base import Row, Work, row_identity
from stages.chain import EMBED_CLIP, EMBED_DINO, MINE, SCAN
from stages.scan import comparable_images, edge_counts, newest_scans
from storage import parts
from storage.schemas import BLIND_PAIRS, NEIGHBOURS
from storage.tables import Tables
from storage.vectors import embedded_keys, load_vectors

PART_ROWS = 50_000


@dataclass(frozen=True)
class Match:
    """An image's contrastive image, or that it has none."""

    neighbour: str | None
    clip: float | None
    dino: float | None


NONE = Match(None, None, None)


def images_to_compare(work: Work, tables: Tables) -> list[str]:
    """The images whose DINOv2 vector is needed: those in a pair that CLIP has passed."""
    keys = set(comparable_images(work, tables))
    if work.recipe.mine.strategy == "nearest":
        scans = newest_scans(work, tables)
        pairs = [(k, s.neighbour) for k, s in scans.items() if s.neighbour is not None]
    else:
        source = tables.source("pairs", work.chain.of(SCAN))
        found = tables.table(f"SELECT image_a, image_b FROM {source} WHERE NOT near_duplicate")
        pairs = list(zip(found.column(0).to_pylist(), found.column(1).to_pylist(), strict=True))
    return sorted({image for pair in pairs if keys.issuperset(pair) for image in pair})


def mine(work: Work) -> dict[str, Any]:
    """Writes the changed matches; gives the summary: histograms, yields, how many have an m'."""
    with work.tables() as tables:
        keys = comparable_images(work, tables)
        previous = _previous(work, tables)
        if work.recipe.mine.strategy == "nearest":
            found, clip, dino = _nearest(work, tables, keys)
        else:
            found, clip, dino = _blind(work, tables, keys)
    matches = _settle(work, keys, found, {key: match for key, (match, _) in previous.items()})
    changed = [
        k for k in keys if k not in previous or previous[k][0].neighbour != matches[k].neighbour
    ]
    work.progress.begin(MINE, len(changed))
    _write(work, changed, matches, previous)
    work.progress.add(MINE, done=len(changed))
    summary = _summary(work, keys, matches, clip, dino)
    work.root.write_json(f"runs/{work.run_id}/mining.json", summary)
    work.progress.end(MINE, note=f"{summary['matched']} of {len(keys)} images have an m'")
    return summary


def _settle(
    work: Work, keys: list[str], found: dict[str, Match], previous: dict[str, Match]
) -> dict[str, Match]:
    if work.recipe.mine.update == "refresh":
        return {key: found.get(key, NONE) for key in keys}
    present = set(keys)
    return {
        key: old if (old := previous.get(key, NONE)).neighbour in present else found.get(key, NONE)
        for key in keys
    }


def _previous(work: Work, tables: Tables) -> dict[str, tuple[Match, int]]:
    source = tables.source("neighbours", work.chain.of(MINE))
    rows = tables.rows(
        "SELECT key, max_by({'n': neighbour, 'c': clip_cosine, 'd': dino_cosine, "
        f"'g': generation}}, generation) AS m FROM {source} GROUP BY key"
    )
    return {
        row["key"]: (Match(row["m"]["n"], row["m"]["c"], row["m"]["d"]), row["m"]["g"])
        for row in rows
    }


Cosines = np.ndarray


def _nearest(
    work: Work, tables: Tables, keys: list[str]
) -> tuple[dict[str, Match], Cosines, Cosines | None]:
    source = tables.source("scans", work.chain.of(SCAN))
    present = set(keys)
    rows = [
        row
        for row in tables.rows(
            "SELECT key, max_by({'n': neighbour, 'c': clip_cosine}, generation) AS s "
            f"FROM {source} GROUP BY key ORDER BY key"
        )
        if row["key"] in present and row["s"]["n"] in present
    ]
    ends = [(row["key"], row["s"]["n"]) for row in rows]
    clip = np.array([row["s"]["c"] for row in rows], dtype=np.float32)
    dino = _dino_cosines(work, ends)
    found = {
        a: Match(b, float(clip[i]), None if dino is None or np.isnan(dino[i]) else float(dino[i]))
        for i, (a, b) in enumerate(ends)
    }
    return found, clip, dino


def _blind(
    work: Work, tables: Tables, keys: list[str]
) -> tuple[dict[str, Match], Cosines, Cosines | None]:
    source = tables.source("pairs", work.chain.of(SCAN))
    present = set(keys)
    rows = [
        row
        for row in tables.rows(
            f"SELECT DISTINCT ON (key) * FROM {source} WHERE NOT near_duplicate ORDER BY key"
        )
        if row["image_a"] in present and row["image_b"] in present
    ]
    ends = [(row["image_a"], row["image_b"]) for row in rows]
    clip = np.array([row["clip_cosine"] for row in rows], dtype=np.float32)
    dino = _dino_cosines(work, ends)
    if dino is None:
        raise ValueError("the strategy `blind` needs embed.dino_model")  # the run checks it first
    blind = is_blind(clip, dino, work.recipe.mine.clip_min, work.recipe.mine.dino_max)
    _write_blind_pairs(work, tables, ends, clip, dino, blind)
    found: dict[str, Match] = {}
    # Ascending cosine and descending digests: the last to write an entry is the nearest, and of
    # equals the one with the smallest digest.
    for place in sorted(np.flatnonzero(blind).tolist(), key=lambda p: (clip[p], _reverse(ends[p]))):
        a, b = ends[place]
        for image, other in ((a, b), (b, a)):
            match = Match(other, float(clip[place]), float(dino[place]))
            old = found.get(image)
            if old is None or old.clip != match.clip or other < (old.neighbour or ""):
                found[image] = match
    return found, clip, dino


def _reverse(ends: tuple[str, str]) -> tuple[int, int]:
    return (-int(ends[0], 16), -int(ends[1], 16))


def _dino_cosines(work: Work, ends: list[tuple[str, str]]) -> Cosines | None:
    if EMBED_DINO not in work.chain.recipes:
        return None
    if not ends:
        return np.empty(0, dtype=np.float32)
    recipe = work.chain.of(EMBED_DINO)
    images = sorted({image for pair in ends for image in pair} & embedded_keys(work.root, recipe))
    place = {image: index for index, image in enumerate(images)}
    vectors = load_vectors(work.root, recipe, images)
    known = np.array([a in place and b in place for a, b in ends], dtype=bool)
    a = np.array([place.get(pair[0], 0) for pair in ends], dtype=np.int64)
    b = np.array([place.get(pair[1], 0) for pair in ends], dtype=np.int64)
    # A pair one of whose images could not be embedded is not blind: its cosine is unknown.
    return np.where(known, pair_cosines(vectors, a, b), np.float32(np.nan)).astype(np.float32)


def _write_blind_pairs(
    work: Work,
    tables: Tables,
    ends: list[tuple[str, str]],
    clip: Cosines,
    dino: Cosines,
    blind: np.ndarray,
) -> None:
    recipe = work.chain.of(MINE)
    source = tables.source("blind_pairs", recipe)
    done = set(tables.table(f"SELECT key FROM {source}").column("key").to_pylist())
    rows: list[Row] = [
        {
            "key": f"{a}:{b}",
            "image_a": a,
            "image_b": b,
            "clip_cosine": float(clip[i]),
            "dino_cosine": float(dino[i]),
            "blind": bool(blind[i]),
        }
        for i, (a, b) in enumerate(ends)
        if f"{a}:{b}" not in done and not np.isnan(dino[i])
    ]
    for start in range(0, len(rows), PART_ROWS):
        parts.write_rows(
            work.root, "blind_pairs", recipe, rows[start : start + PART_ROWS], BLIND_PAIRS
        )


def _write(
    work: Work,
    changed: list[str],
    matches: dict[str, Match],
    previous: dict[str, tuple[Match, int]],
) -> None:
    recipe = work.chain.of(MINE)
    rows: list[Row] = []
    for key in changed:
        match = matches[key]
        generation = previous[key][1] + 1 if key in previous else 0
        rows.append(
            {
                "id": row_identity(recipe, f"{key}:{generation}"),
                "key": key,
                "neighbour": match.neighbour,
                "clip_cosine": match.clip,
                "dino_cosine": match.dino,
                "strategy": work.recipe.mine.strategy,
                "generation": generation,
            }
        )
    for start in range(0, len(rows), PART_ROWS):
        parts.write_rows(
            work.root, "neighbours", recipe, rows[start : start + PART_ROWS], NEIGHBOURS
        )


def _summary(
    work: Work, keys: list[str], matches: dict[str, Match], clip: Cosines, dino: Cosines | None
) -> dict[str, Any]:
    mine = work.recipe.mine
    summary: dict[str, Any] = {
        "strategy": mine.strategy,
        "images": len(keys),
        "matched": sum(match.neighbour is not None for match in matches.values()),
        "clip_all_pairs": [],
        "clip_candidates": _histogram(clip),
        "dino_candidates": _histogram(dino) if dino is not None else None,
        "yields": [],
    }
    if len(keys) > 1:
        vectors = load_vectors(work.root, work.chain.of(EMBED_CLIP), keys)
        summary["clip_all_pairs"] = sampled_histogram(
            vectors, seed=work.recipe.seed
        ).counts.tolist()
    counts = edge_counts(work) if mine.strategy == "blind" else _counts_of(clip, mine.clip_min)
    if counts is not None:
        joint = None
        if dino is not None:
            known = ~np.isnan(dino) & (clip > np.float32(mine.clip_min))
            joint = JointCounts.around(mine.clip_min, mine.dino_max)
            joint.add(clip[known], dino[known])
        summary["yields"] = [asdict(row) for row in yields(counts, joint)]
    return summary


def _counts_of(clip: Cosines, clip_min: float) -> EdgeCounts:
    counts = EdgeCounts.around(clip_min)
    counts.add(clip)
    return counts


def _histogram(cosines: Cosines) -> list[int]:
    histogram = Histogram.empty()
    histogram.add(cosines[~np.isnan(cosines)])
    counts: list[int] = histogram.counts.tolist()
    return counts
