"""One shard of the comparison of images, by whichever process is given the job.

A shard is a range of the new images. A cosine is exact and depends on its two vectors alone, so
the rows are the same whatever the shards. A pair of two new images is met from both sides; the
shard that has the first of them writes it.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa

from curation.blind import PairBlock, pairs_above
from curation.cosines import EdgeCounts
from curation.nearest import Search, flat_index, nearest
from models.product import block_product
from storage import parts
from storage.root import Root
from storage.schemas import PAIRS
from storage.vectors import load_vectors

PART_ROWS = 50_000
_loading = threading.Lock()  # a worker with several threads loads the vectors once


@dataclass(frozen=True)
class Images:
    """All images of a scan in the order of their digests: keys, which are new, vectors [N, D]."""

    keys: list[str]
    is_new: np.ndarray
    vectors: np.ndarray


def scan_file(keys: list[str], is_new: np.ndarray) -> bytes:
    """The work file that the shards of one scan share."""
    return parts.to_parquet(pa.table({"key": pa.array(keys, pa.string()), "is_new": is_new}))


def nearest_shard(job: dict[str, Any]) -> dict[str, Any]:
    """The nearest other of the new images start to stop, and their near duplicates."""
    root, images = Root(job["root"]), _images_of(job)
    queries = np.flatnonzero(images.is_new)[job["start"] : job["stop"]]
    with _loading:
        search = _index(job["root"], job["images"], job["vectors"])
    found = nearest(
        images.vectors, queries, ceiling=job["near_duplicate"], block=job["block"], search=search
    )
    names = [None if n < 0 else images.keys[n] for n in found.neighbour.tolist()]
    cosines = [
        None if name is None else cosine
        for name, cosine in zip(names, found.cosine.tolist(), strict=True)
    ]
    neighbours = f"{job['out']}.parquet"
    table = pa.table(
        {
            "key": pa.array([images.keys[n] for n in queries.tolist()], pa.string()),
            "neighbour": pa.array(names, pa.string()),
            "clip_cosine": pa.array(cosines, pa.float32()),
        }
    )
    root.write_bytes(neighbours, parts.to_parquet(table))
    duplicates = of_shard(found.duplicates, images.is_new, queries)
    return {"neighbours": neighbours, "pairs": _write_pairs(root, job, images.keys, [duplicates])}


def of_shard(pairs: PairBlock, is_new: np.ndarray, queries: np.ndarray) -> PairBlock:
    """The pairs that this shard writes, of those it met: not those whose first image is another's.

    queries: the shard's new images, ascending, without a new image left out between them.
    """
    others = is_new[pairs.a] & ((pairs.a < queries[0]) | (pairs.a > queries[-1]))
    return PairBlock(pairs.a[~others], pairs.b[~others], pairs.cosine[~others])


def pairs_shard(job: dict[str, Any]) -> dict[str, Any]:
    """All pairs above the threshold of the new images start to stop with later new and old ones."""
    root, images = Root(job["root"]), _images_of(job)
    counts = EdgeCounts.at(tuple(job["edges"]))
    blocks = pairs_above(
        images.vectors,
        job["threshold"],
        block=job["block"],
        is_new=images.is_new,
        product=block_product(job["device"]),
        counts=counts,
        part=(job["start"], job["stop"]),
    )
    written = _write_pairs(root, job, images.keys, blocks)
    return {"pairs": written, "above": counts.above.tolist()}


def _images_of(job: dict[str, Any]) -> Images:
    with _loading:
        return _load(job["root"], job["images"], job["vectors"])


# A work file's name tells its content, so what is kept is never another scan's.
@lru_cache(maxsize=1)
def _load(root: str, path: str, recipe: str) -> Images:
    table = parts.read_part(Root(root), path)
    keys = table.column("key").to_pylist()
    is_new = table.column("is_new").to_numpy(zero_copy_only=False)
    return Images(keys, is_new, load_vectors(Root(root), recipe, keys))


@lru_cache(maxsize=1)
def _index(root: str, path: str, recipe: str) -> Search:
    return flat_index(_load(root, path, recipe).vectors)


def forget() -> None:
    """Lets vectors and index go: what comes next needs their memory."""
    _load.cache_clear()
    _index.cache_clear()


def _write_pairs(root: Root, job: dict[str, Any], keys: list[str], blocks: Any) -> list[str]:
    """Work files with rows of `pairs`."""
    ceiling, written = np.float32(job["near_duplicate"]), []
    for block in blocks:
        for start in range(0, len(block), PART_ROWS):
            a = [keys[i] for i in block.a[start : start + PART_ROWS].tolist()]
            b = [keys[j] for j in block.b[start : start + PART_ROWS].tolist()]
            cosines = block.cosine[start : start + PART_ROWS]
            data = {
                "key": [f"{left}:{right}" for left, right in zip(a, b, strict=True)],
                "image_a": a,
                "image_b": b,
                "clip_cosine": cosines,
                "near_duplicate": cosines > ceiling,
            }
            path = f"{job['out']}-{len(written):06d}.parquet"
            root.write_bytes(path, parts.to_parquet(pa.table(data, schema=PAIRS)))
            written.append(path)
    return written
