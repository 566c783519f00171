"""Embed images: CLIP for all, DINOv2 for those in a pair that CLIP has passed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import Any

from PIL import Image

from config.errors import FileMissing, RefusedImage
from models.encoders import Encoder, load_encoder
from models.identity import Kind
from sources.inspect import upright_rgb
from stages.base import Row, Work
from stages.chain import EMBED_CLIP, EMBED_DINO
from stages.mine import images_to_compare
from stages.results import escaped
from stages.units import images_sql
from storage import parts
from storage.schemas import FAILURES
from storage.vectors import embedded_keys, write_vectors


def pending_images(work: Work, stage: str) -> list[Row]:
    """key and path of the images that have no vector yet under the stage's recipe, by digest."""
    recipe = work.chain.of(stage)
    with work.tables() as tables:
        rows = tables.rows(f"SELECT key, path FROM {images_sql(work, tables)} ORDER BY key")
        wanted = set(images_to_compare(work, tables)) if stage == EMBED_DINO else None
    done = embedded_keys(work.root, recipe)
    return [
        row for row in rows if row["key"] not in done and (wanted is None or row["key"] in wanted)
    ]


@dataclass
class EmbedRunner:
    """Embeds batches of images with one encoder, loaded at the first batch."""

    work: Work
    stage: str
    _encoder: Encoder | None = field(default=None, init=False)

    def encoder(self) -> Encoder:
        if self._encoder is None:
            embed = self.work.recipe.embed
            kind: Kind = "clip" if self.stage == EMBED_CLIP else "dino"
            model = embed.clip_model if self.stage == EMBED_CLIP else embed.dino_model
            settings = self.work.settings
            self._encoder = load_encoder(
                kind, str(model), cache_dir=settings.cache_dir, embedding=settings.embedding
            )
        return self._encoder

    def run(self, rows: list[Row]) -> dict[str, Any]:
        """Embeds key and path rows; gives a receipt (JSON values)."""
        kinds: dict[str, str] = {}
        encoded = self.encoder().encode([partial(self._open, row, kinds) for row in rows])
        good = [place for place in range(len(rows)) if place not in encoded.failed]
        recipe = self.work.chain.of(self.stage)
        path = None
        if good:
            keys = [rows[place]["key"] for place in good]
            path = write_vectors(self.work.root, recipe, keys, encoded.vectors[good])
        failed = {rows[place]["key"]: why for place, why in encoded.failed.items()}
        if failed:
            self._fail(
                {key: (kinds.get(key, "UnusableVector"), why) for key, why in failed.items()},
                recipe,
            )
        self.work.progress.add(self.stage, done=len(good), failed=len(failed))
        return {"stage": self.stage, "part": path, "rows": len(good), "failures": len(failed)}

    def _open(self, row: Row, kinds: dict[str, str]) -> Image.Image:
        """The image. Raises RefusedImage, with its row's class of error noted in `kinds`."""
        try:
            return upright_rgb(self.work.root.read_bytes(row["path"]))
        except FileMissing as error:
            kinds[row["key"]] = "InputMissing"
            raise RefusedImage(
                "missing", f"{error}; ingest the input again, which stores the image anew"
            ) from error
        except (RefusedImage, OSError, ValueError, SyntaxError) as error:  # a damaged file
            kinds[row["key"]] = "UnreadableImage"
            raise RefusedImage(
                "truncated", f"{row['path']}: {type(error).__name__}: {error}"
            ) from error

    def _fail(self, reasons: dict[str, tuple[str, str]], recipe: str) -> None:
        failed: list[Row] = [
            {
                "stage": self.stage,
                "recipe": recipe,
                "key": key,
                "unit": key,
                "error_class": error_class,
                "message": escaped(why),
                "raw_text": None,
                "attempts": 1,
                "nonce": 0,
                "run_id": self.work.run_id,
                "failed_at": datetime.now(UTC),
            }
            for key, (error_class, why) in reasons.items()
        ]
        parts.write_rows(self.work.root, "failures", recipe, failed, FAILURES)


def embed(
    work: Work,
    stage: str,
    wrap: Callable[
        [Callable[[list[Row]], dict[str, Any]]], Callable[[list[Row]], dict[str, Any]]
    ] = lambda run: run,
) -> None:
    """Embeds all that is pending. `wrap` makes a batch an orchestrator's task."""
    if stage not in work.chain.recipes:
        return
    rows = pending_images(work, stage)
    work.progress.begin(stage, len(rows))
    run = wrap(EmbedRunner(work, stage).run)
    size = max(work.settings.embedding.batch_size, 256)
    for start in range(0, len(rows), size):
        work.check_going()
        run(rows[start : start + size])
    work.progress.end(stage)
