"""Block products on a GPU: the torch side of `curation.blind.Product`.

Rows go to the device as float16 and are multiplied there as float32; comparing with the
thresholds happens there too, so only pairs that may pass come back. TensorFloat-32 is switched
off for the product. (It would not even change the products: it keeps 11 significant bits, a
float16's own. Only the adding up on tensor cores is coarser than the margin is made for.)
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np

from curation.blind import IMPOSSIBLE, STRIP_VALUES, Limits, NumpyProduct, Product, Scan
from curation.cosines import Float16, Int64

if TYPE_CHECKING:
    from torch import Tensor


class TorchProduct:
    """`Product` on a torch device; holds one block of cosines, float32 [block, block], there."""

    def __init__(self, device: str = "cuda") -> None:
        self.device = device

    def load(self, rows: Float16) -> Tensor:
        import torch

        return torch.from_numpy(np.ascontiguousarray(rows)).to(self.device).float()

    def scan(self, rows: Tensor, cols: Tensor, limits: Limits, *, triangle: bool) -> Iterator[Scan]:
        import torch

        with _full_float32():
            scores = rows @ cols.T
        if triangle:
            below = torch.ones_like(scores, dtype=torch.bool).tril_()
            scores.masked_fill_(below, float(IMPOSSIBLE))
        alive = (scores > limits.floor).sum(dim=1).cpu().numpy()
        if not alive.any():
            return
        for start, stop in _runs(alive):
            yield _sift(scores[start:stop], limits, start)


def block_product(device: str = "auto") -> Product:
    """The product for a device: numpy for "cpu", torch for any other; "auto" takes a GPU if any."""
    if device == "auto":
        import torch

        device = "cuda" if torch.cuda.is_available() else "cpu"
    return NumpyProduct() if device == "cpu" else TorchProduct(device)


@contextmanager
def _full_float32() -> Iterator[None]:
    import torch

    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def _runs(alive: Int64) -> Iterator[tuple[int, int]]:
    """Runs of rows with at most STRIP_VALUES live pairs (or one row), leaving out dead ends."""
    start, held = 0, 0
    for row, number in enumerate(alive.tolist()):
        if held and held + number > STRIP_VALUES:
            yield start, row
            start, held = row, 0
        held += number
    if held:
        yield start, len(alive)


def _sift(scores: Tensor, limits: Limits, start: int) -> Scan:
    """What `curation.blind` does to a strip, on the device."""
    import torch

    i, j = torch.nonzero(scores > limits.floor, as_tuple=True)
    values = scores[i, j]
    decide = values > limits.threshold - limits.margin
    for edge in limits.edges:
        decide |= (values - edge).abs() <= limits.margin
    sure = values[~decide]
    above = [int((sure > edge).sum()) for edge in limits.edges]
    return Scan(
        (i[decide] + start).cpu().numpy(), j[decide].cpu().numpy(), np.array(above, np.int64)
    )
