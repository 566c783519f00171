"""Unit vectors of images, as one array in the order of their digests."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from config.errors import StorageError
from storage import parts
from storage.root import Root
from storage.schemas import embeddings

TABLE = "embeddings"


def vectors_table(keys: Sequence[str], vectors: np.ndarray) -> pa.Table:
    """One part: float16 [n, D] with its n image digests."""
    n, dimension = vectors.shape
    values = pa.array(np.ascontiguousarray(vectors, dtype=np.float16).reshape(n * dimension))
    schema = embeddings(dimension)
    column = pa.FixedSizeListArray.from_arrays(values, dimension)
    return pa.Table.from_arrays([pa.array(keys, pa.string()), column], schema=schema)


def embedded_keys(root: Root, recipe: str) -> set[str]:
    """The images that have a vector under this recipe."""
    found: set[str] = set()
    for part in parts.read_parts(root, TABLE, recipe):
        found.update(part.column("key").to_pylist())
    return found


def load_vectors(root: Root, recipe: str, keys: Sequence[str]) -> np.ndarray:
    """float16 [len(keys), D]: one row a key, in the order given.

    Raises StorageError when a key has no vector.
    """
    place = {key: index for index, key in enumerate(keys)}
    filled = np.zeros(len(keys), dtype=bool)
    vectors: np.ndarray | None = None
    for part in parts.read_parts(root, TABLE, recipe):
        column = part.column("vector").combine_chunks()
        dimension = column.type.list_size
        if vectors is None:
            vectors = np.empty((len(keys), dimension), dtype=np.float16)
        values = column.flatten().to_numpy().reshape(-1, dimension)
        targets = np.array([place.get(key, -1) for key in part.column("key").to_pylist()])
        wanted = targets >= 0
        vectors[targets[wanted]] = values[wanted]
        filled[targets[wanted]] = True
    if vectors is None or not filled.all():
        missing = keys[int(np.argmin(filled))] if len(keys) else "?"
        raise StorageError(
            f"{int((~filled).sum())} images have no vector under recipe {recipe}, "
            f"the first of them {missing}; run the embed stage"
        )
    return vectors
