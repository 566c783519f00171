"""One batch of images embedded, by whichever process is given the job."""

from __future__ import annotations

import socket
import threading
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from PIL import Image

from config.digest import canonical_json, digest
from config.errors import FileMissing, RecipeError, RefusedImage
from config.settings import Embedding
from models.encoders import Encoder, load_encoder
from models.identity import Kind
from sources.inspect import upright_rgb
from storage import parts
from storage.root import Root
from storage.vectors import vectors_table

_loading = threading.Lock()  # a worker with several threads loads an encoder once


def embed_batch(job: dict[str, Any]) -> dict[str, Any]:
    """Embeds the images of the job's work file; gives a work file of vectors and what failed.

    Raises RecipeError where this process has another encoder under the same name, and what
    `load_encoder` and `Encoder.encode` raise.
    """
    root, kind = Root(job["root"]), job["kind"]
    rows = root.read_json(job["rows"])
    if rows is None:
        raise FileMissing(
            f"{root.url_of(job['rows'])} is not there: the run that made it has ended"
        )
    wrong: dict[str, str] = {}
    encoder = encoder_of(job)
    encoded = encoder.encode([partial(open_image, root, kind, row, wrong) for row in rows])
    good = [place for place in range(len(rows)) if place not in encoded.failed]
    vectors = None
    if good:
        vectors = f"{job['out']}.parquet"
        keys = [rows[place]["key"] for place in good]
        data = vectors_table(keys, encoded.vectors[good])
        root.write_bytes(vectors, parts.to_parquet(data))
    failed = {
        rows[place]["key"]: [wrong.get(rows[place]["key"], "UnusableVector"), why]
        for place, why in encoded.failed.items()
    }
    return {"vectors": vectors, "rows": len(good), "failed": failed}


def encoder_of(job: dict[str, Any]) -> Encoder:
    """The job's encoder. Raises RecipeError where its files here are not those of the recipe."""
    with _loading:
        encoder = _load(
            job["kind"], job["model"], job["cache_dir"], canonical_json(job["embedding"])
        )
    if digest(encoder.identity.as_dict()) != job["identity"]:
        raise RecipeError(
            f"the encoder {job['model']!r} has other files here ({socket.gethostname()}) than where "
            "the run was started: give every worker the same weights"
        )
    return encoder


@lru_cache(maxsize=1)
def _load(kind: Kind, model: str, cache_dir: str, embedding: bytes) -> Encoder:
    return load_encoder(
        kind,
        model,
        cache_dir=Path(cache_dir),
        embedding=Embedding.model_validate_json(embedding),
    )


def forget() -> None:
    """Lets the encoder go: what comes next needs its memory."""
    _load.cache_clear()


def open_image(root: Root, kind: Kind, row: dict[str, str], wrong: dict[str, str]) -> Image.Image:
    """The image. Raises RefusedImage, with its row's class of error noted in `wrong`."""
    try:
        return upright_rgb(root.read_bytes(row["path"]))
    except FileMissing as error:
        wrong[row["key"]] = "InputMissing"
        raise RefusedImage(
            "missing", f"{error}; ingest the input again, which stores the image anew"
        ) from error
    except (RefusedImage, OSError, ValueError, SyntaxError) as error:  # a damaged file
        wrong[row["key"]] = "UnreadableImage"
        raise RefusedImage(
            "truncated", f"{row['path']}: {type(error).__name__}: {error}"
        ) from error
