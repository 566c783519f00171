"""The torch product gives the pairs and counts that the numpy product gives, bit for bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from curation.blind import NumpyProduct, Product, pairs_above
from curation.cosines import EdgeCounts
from models import product
from models.product import TorchProduct, block_product

DEVICES = [
    "cpu",
    pytest.param(
        "cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
    ),
]


def grouped_rows(n: int, dimension: int, spread: float) -> Any:
    drawn = np.random.default_rng(8)
    centres = drawn.standard_normal((max(1, n // 8), dimension))
    rows = centres[drawn.integers(0, len(centres), n)]
    rows = rows + spread * drawn.standard_normal((n, dimension))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float16)


def mined(vectors: Any, with_product: Product, **options: Any) -> tuple[list[Any], list[int]]:
    counts = EdgeCounts.around(0.95)
    parts = list(pairs_above(vectors, 0.95, product=with_product, counts=counts, **options))
    pairs = [
        (a, b, cosine)
        for part in parts
        for a, b, cosine in zip(part.a.tolist(), part.b.tolist(), part.cosine, strict=True)
    ]
    return sorted(pairs), counts.above.tolist()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("block", [50, 4096])
def test_equals_the_numpy_product(device: str, block: int) -> None:
    vectors = grouped_rows(400, 768, 0.22)
    expected = mined(vectors, NumpyProduct())
    assert 100 < len(expected[0]) < expected[1][0]
    assert mined(vectors, TorchProduct(device), block=block) == expected


@pytest.mark.parametrize("device", DEVICES)
def test_equals_the_numpy_product_for_new_rows(device: str) -> None:
    vectors = grouped_rows(200, 64, 0.2)
    is_new = np.arange(200) % 7 == 0
    expected = mined(vectors, NumpyProduct(), is_new=is_new)
    assert expected[0]
    assert mined(vectors, TorchProduct(device), block=30, is_new=is_new) == expected


@pytest.mark.parametrize("device", DEVICES)
def test_a_dense_block_comes_in_bounded_pieces(
    device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(product, "STRIP_VALUES", 300)
    vectors = np.repeat(grouped_rows(1, 16, 0.0), 90, axis=0)
    blocks = list(pairs_above(vectors, 0.95, product=TorchProduct(device)))
    assert max(len(block) for block in blocks) <= 300
    pairs = np.concatenate([np.column_stack([block.a, block.b]) for block in blocks])
    assert sorted(pairs.tolist()) == np.column_stack(np.triu_indices(90, 1)).tolist()


@pytest.mark.parametrize("device", DEVICES)
def test_counts_and_pairs_are_exact_where_cosines_hit_the_thresholds(device: str) -> None:
    own = np.random.default_rng(6).standard_normal((100, 768))
    rows = np.sqrt(0.05) * own / np.linalg.norm(own, axis=1, keepdims=True)
    rows[:, 0] += np.sqrt(0.95)  # cosines of .95 +- .002
    vectors = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float16)
    wide = vectors.astype(np.float64)
    cosines = (wide @ wide.T).astype(np.float32)[np.triu_indices(100, 1)]
    edges = tuple(np.unique(cosines)[:3000:150].tolist())
    for threshold in edges[-5:]:
        counts = EdgeCounts.at(edges)
        parts = pairs_above(vectors, threshold, product=TorchProduct(device), counts=counts)
        assert sum(len(part) for part in parts) == (cosines > np.float32(threshold)).sum()
        assert counts.above.tolist() == [(cosines > np.float32(edge)).sum() for edge in edges]
    for cosine in edges:  # just under a pair's cosine: that pair must not get lost
        threshold = float(np.nextafter(np.float32(cosine), np.float32(0)))
        parts = pairs_above(vectors, threshold, product=TorchProduct(device))
        assert sum(len(part) for part in parts) == (cosines > np.float32(threshold)).sum()


def test_precision_is_full_during_the_product_and_restored_after(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    during: list[str] = []
    multiply = torch.Tensor.__matmul__

    def watched(left: Any, right: Any) -> Any:
        during.append(torch.get_float32_matmul_precision())
        return multiply(left, right)

    monkeypatch.setattr(torch.Tensor, "__matmul__", watched)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        mined(grouped_rows(20, 16, 0.2), TorchProduct("cpu"))
        assert during == ["highest"]
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision(before)


def test_block_product_by_device(monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(block_product("cpu"), NumpyProduct)
    other = block_product("cuda:1")
    assert isinstance(other, TorchProduct)
    assert other.device == "cuda:1"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert isinstance(block_product(), NumpyProduct)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert isinstance(block_product(), TorchProduct)
