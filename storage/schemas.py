"""The tables of a dataset root. The only place where a pyarrow schema is written.

Every table lies under `tables/<table>/<recipe digest of its stage>/part-*.parquet`. `key` is the
unit of work inside one recipe digest (what "pending" is asked about); `id` identifies a row over
all recipe digests (what lineage joins on).
"""

from __future__ import annotations

import pyarrow as pa

_TEXT = pa.string()
_COUNT = pa.int64()

CALL_COLUMNS: list[tuple[str, pa.DataType]] = [
    ("model", _TEXT),
    ("served_model", _TEXT),
    ("prompt_digest", _TEXT),
    ("request_key", _TEXT),
    ("finish_reason", _TEXT),
    ("prompt_tokens", _COUNT),
    ("completion_tokens", _COUNT),
    ("cost_usd", pa.float64()),
    ("attempts", _COUNT),
    ("run_id", _TEXT),
]

INPUTS = pa.schema(
    [
        ("ingest", _TEXT),
        ("source", _TEXT),
        ("position", _COUNT),
        ("item", _COUNT),
        ("external_id", _TEXT),
        ("status", _TEXT),  # accepted | duplicate | refused
        ("reason", _TEXT),
        ("message", _TEXT),
        ("row_id", _TEXT),
        ("image", _TEXT),
        ("prompt", _TEXT),
        ("path", _TEXT),
        ("size", _COUNT),
        ("mtime_ns", _COUNT),
    ]
)

IMAGES = pa.schema(
    [
        ("key", _TEXT),  # SHA-256 of the file's bytes
        ("path", _TEXT),  # relative to the root
        ("view_path", _TEXT),  # the upright RGB copy models are given, where the file needs one
        ("format", _TEXT),
        ("mode", _TEXT),
        ("width", _COUNT),
        ("height", _COUNT),
        ("size", _COUNT),
    ]
)

SCANS = pa.schema(
    [
        ("key", _TEXT),  # image
        ("neighbour", _TEXT),
        ("clip_cosine", pa.float32()),
        ("image_set", _TEXT),
        ("generation", _COUNT),
    ]
)

PAIRS = pa.schema(
    [
        ("key", _TEXT),  # a:b
        ("image_a", _TEXT),  # the smaller digest
        ("image_b", _TEXT),
        ("clip_cosine", pa.float32()),
        ("near_duplicate", pa.bool_()),
    ]
)

BLIND_PAIRS = pa.schema(
    [
        ("key", _TEXT),  # a:b
        ("image_a", _TEXT),
        ("image_b", _TEXT),
        ("clip_cosine", pa.float32()),
        ("dino_cosine", pa.float32()),
        ("blind", pa.bool_()),
    ]
)

NEIGHBOURS = pa.schema(
    [
        ("id", _TEXT),
        ("key", _TEXT),  # image
        ("neighbour", _TEXT),
        ("clip_cosine", pa.float32()),
        ("dino_cosine", pa.float32()),
        ("strategy", _TEXT),
        ("generation", _COUNT),
    ]
)

CAPTIONS = pa.schema(
    [
        ("id", _TEXT),
        ("key", _TEXT),
        ("image", _TEXT),
        ("text", _TEXT),
        ("content", _TEXT),
        *CALL_COLUMNS,
    ]
)

ANSWERS = pa.schema(
    [
        ("id", _TEXT),
        ("key", _TEXT),  # unit:k
        ("unit", _TEXT),
        ("image", _TEXT),
        ("prompt", _TEXT),
        ("k", _COUNT),
        ("seed", _COUNT),
        ("text", _TEXT),
        ("content", _TEXT),
        *CALL_COLUMNS,
    ]
)

EXTRACTIONS = pa.schema(
    [
        ("id", _TEXT),
        ("key", _TEXT),
        ("unit", _TEXT),
        ("caption_id", _TEXT),
        ("answer_ids", pa.list_(_TEXT)),
        ("consistent", _COUNT),
        ("inconsistent", _COUNT),
        ("unverifiable", _COUNT),
        ("content", _TEXT),  # covers claims and style: the key of what is rewritten from it
        ("style_example", _TEXT),
        *CALL_COLUMNS,
    ]
)

CLAIMS = pa.schema(
    [
        ("id", _TEXT),
        ("key", _TEXT),  # extraction key:number
        ("extraction_id", _TEXT),
        ("unit", _TEXT),
        ("number", _COUNT),
        ("text", _TEXT),
        ("verdict", _TEXT),
        ("evidence", _TEXT),
        ("answer_ids", pa.list_(_TEXT)),
    ]
)

REWRITES = pa.schema(
    [
        ("id", _TEXT),
        ("key", _TEXT),
        ("unit", _TEXT),
        ("extraction_id", _TEXT),
        ("chosen", _TEXT),
        ("rejected", _TEXT),
        ("chosen_claim_ids", pa.list_(_TEXT)),
        ("rejected_claim_ids", pa.list_(_TEXT)),
        *CALL_COLUMNS,
    ]
)

FAILURES = pa.schema(
    [
        ("stage", _TEXT),
        ("recipe", _TEXT),
        ("key", _TEXT),
        ("unit", _TEXT),
        ("error_class", _TEXT),
        ("message", _TEXT),
        ("raw_text", _TEXT),
        ("attempts", _COUNT),
        ("nonce", _COUNT),
        ("prompt_tokens", _COUNT),
        ("completion_tokens", _COUNT),
        ("cost_usd", pa.float64()),
        ("run_id", _TEXT),
        ("failed_at", pa.timestamp("us", tz="UTC")),
    ]
)

PREFERENCES = pa.schema(
    [
        ("row_id", _TEXT),
        ("split", _TEXT),
        ("prompt", _TEXT),
        ("image", _TEXT),
        ("image_path", _TEXT),
        ("chosen", _TEXT),
        ("rejected", _TEXT),
        ("neighbour", _TEXT),
        ("neighbour_path", _TEXT),
        ("neighbour_chosen", _TEXT),
        ("neighbour_rejected", _TEXT),
        ("clip_cosine", pa.float32()),
        ("dino_cosine", pa.float32()),
        ("strategy", _TEXT),
        ("neighbour_id", _TEXT),
        ("rewrite_id", _TEXT),
        ("neighbour_rewrite_id", _TEXT),
        ("external_ids", pa.list_(_TEXT)),
    ]
)

DECISIONS = pa.schema(
    [
        ("row_id", _TEXT),
        ("image", _TEXT),
        ("prompt", _TEXT),
        ("kept", pa.bool_()),
        ("reason", _TEXT),
        ("detail", _TEXT),
        ("split", _TEXT),
    ]
)

TABLES: dict[str, pa.Schema] = {
    "inputs": INPUTS,
    "images": IMAGES,
    "scans": SCANS,
    "pairs": PAIRS,
    "blind_pairs": BLIND_PAIRS,
    "neighbours": NEIGHBOURS,
    "captions": CAPTIONS,
    "answers": ANSWERS,
    "extractions": EXTRACTIONS,
    "claims": CLAIMS,
    "rewrites": REWRITES,
    "failures": FAILURES,
    "preferences": PREFERENCES,
    "decisions": DECISIONS,
}


def embeddings(dimension: int) -> pa.Schema:
    """A table of unit vectors: one fixed-size list of float16 an image."""
    return pa.schema([("key", _TEXT), ("vector", pa.list_(pa.float16(), dimension))])
