"""Image encoders: images in, unit vectors out."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from config.errors import RecipeError, RefusedImage, RowError, StageStopped
from config.settings import Embedding
from models import clip, dino
from models.devices import Precision, choose_device, choose_precision
from models.identity import Kind, ModelIdentity, describe, identity_of

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

Float32 = NDArray[np.float32]
MAX_WORKERS = 8
Opened: TypeAlias = "Image.Image | Callable[[], Image.Image]"


@dataclass(frozen=True)
class Encoded:
    """Vectors of n images.

    `vectors` is float16 [n, dimension]. A row has length one before it is rounded to float16, so
    within 2**-11 of one after. `failed` says why an image, by its index, has no vector; its row
    is zero.
    """

    vectors: NDArray[np.float16]
    failed: Mapping[int, str]


class Encoder(Protocol):
    """An image encoder of known identity."""

    @property
    def identity(self) -> ModelIdentity: ...

    def encode(self, images: Sequence[Opened]) -> Encoded:
        """Unit vectors of RGB images, in order. Raises ValueError for an image of another mode."""
        ...


class TorchEncoder:
    """An encoder whose network runs in torch.

    An image's vector should not depend on the images beside it, but the order in which a product
    is added up may change with its shape. So every pass has the same number of rows, the last one
    filled up with zeros. On a CPU that number is one: vectors are then the same bits in any batch
    and for any `batch_size`, and it costs little (one image is some hundred rows of tokens).
    Elsewhere it is `batch_size`; another size may change values in the last bit of float16, which
    moves a cosine by about 1e-5.
    """

    def __init__(
        self,
        network: Callable[[Tensor], Tensor],
        identity: ModelIdentity,
        *,
        device: str,
        precision: Precision,
        batch_size: int,
        rows_a_pass: int | None = None,
    ) -> None:
        self._network = network
        self._identity = identity
        self._device = device
        self._precision = precision
        self._batch_size = batch_size
        self._rows = rows_a_pass or (1 if device == "cpu" else batch_size)

    @property
    def identity(self) -> ModelIdentity:
        return self._identity

    def encode(self, images: Sequence[Opened]) -> Encoded:
        """Unit vectors of RGB images, in order; images are made ready on threads meanwhile.

        An image given as a function is opened on such a thread and let go at once, so that
        memory is bounded by the threads and not by the number of images; one that its function
        refuses (RefusedImage) has no vector.

        Raises ValueError for an image that is not RGB, RecipeError where the network's vectors
        are not of the length its files state, StageStopped where the device's memory runs out.
        """
        vectors = np.zeros((len(images), self._identity.dimension), np.float16)
        failed: dict[int, str] = {}
        for start, prepared in self._prepared(images):
            ready = [i for i, item in enumerate(prepared) if not isinstance(item, str)]
            failed |= {start + i: p for i, p in enumerate(prepared) if isinstance(p, str)}
            if not ready:
                continue
            found = self._features(np.stack([prepared[i] for i in ready]))
            units, usable = _unit_rows(found)
            places = np.array(ready) + start
            vectors[places] = units
            failed |= {int(i): "the encoder gave a zero or NaN vector" for i in places[~usable]}
        return Encoded(vectors, dict(sorted(failed.items())))

    def _prepared(self, images: Sequence[Opened]) -> Iterator[tuple[int, list[Float32 | str]]]:
        """Batches of inputs (or why there is none); the next one is made ready during this one."""
        starts = range(0, len(images), self._batch_size)
        workers = min(MAX_WORKERS, os.cpu_count() or 1)
        with ThreadPoolExecutor(workers, thread_name_prefix="preprocess") as pool:

            def submit(start: int) -> list[Future[Float32 | str]]:
                batch = images[start : start + self._batch_size]
                return [pool.submit(self._prepare, image) for image in batch]

            waiting = submit(0)
            for start in starts:
                current, waiting = waiting, submit(start + self._batch_size)
                yield start, [future.result() for future in current]

    def _prepare(self, image: Opened) -> Float32 | str:
        try:
            opened = image() if callable(image) else image
            return self._identity.preprocessing.pixels(opened)
        except (RowError, RefusedImage) as error:
            return str(error)
        except OSError as error:
            return f"the image cannot be decoded: {error}"

    def _features(self, pixels: Float32) -> Float32:
        """The network's vectors, float32 [n, dimension], of inputs [n, 3, side, side]."""
        import torch

        out = np.empty((len(pixels), self._identity.dimension), np.float32)
        kind = torch.device(self._device).type
        low = self._precision != "float32"
        dtype = getattr(torch, self._precision) if low else None
        for start in range(0, len(pixels), self._rows):
            batch = pixels[start : start + self._rows]
            filled = np.zeros((self._rows, *batch.shape[1:]), np.float32)
            filled[: len(batch)] = batch
            try:
                with torch.inference_mode(), torch.autocast(kind, dtype=dtype, enabled=low):
                    given = self._network(torch.from_numpy(filled).to(self._device))
                    rows = given.float().cpu().numpy()[: len(batch)]
            except torch.OutOfMemoryError as error:
                raise StageStopped(
                    f"{self._device} has too little memory for {self._rows} images at once; "
                    "lower embedding.batch_size and resume"
                ) from error
            if rows.shape[1:] != out.shape[1:]:
                raise RecipeError(
                    f"encoder {self._identity.name!r} gave vectors of shape {rows.shape[1:]}; "
                    f"its files state {self._identity.dimension} values; check its configuration"
                )
            out[start : start + len(batch)] = rows
        return out


def load_encoder(kind: Kind, model: str, *, cache_dir: Path, embedding: Embedding) -> TorchEncoder:
    """Loads an image encoder; its identity is the one that `models.identity.identify` tells.

    Raises RecipeError for a model that cannot be had, weights that do not fit, or a device or
    precision that this machine does not have.
    """
    device = choose_device(embedding.device)
    precision = choose_precision(embedding.precision, device)
    description = describe(kind, model)
    identity = identity_of(description, cache_dir)
    builder = clip.build if kind == "clip" else dino.build
    return TorchEncoder(
        builder(description, device),
        identity,
        device=device,
        precision=precision,
        batch_size=embedding.batch_size,
    )


def _unit_rows(vectors: Float32) -> tuple[NDArray[np.float16], NDArray[np.bool_]]:
    """Rows divided by their length, float16, and which of them have one; the others are zero."""
    usable = np.asarray(np.isfinite(vectors).all(axis=1))
    # In float64 the squares of float32 values neither overflow nor vanish.
    wide = np.where(usable[:, None], vectors, 0.0).astype(np.float64)
    lengths = np.linalg.norm(wide, axis=1)
    usable &= lengths > 0
    return (wide / np.where(usable, lengths, 1.0)[:, None]).astype(np.float16), usable
