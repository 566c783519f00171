"""Devices and precisions: what is there is used, what is not is refused by name."""

import pytest
import torch

from config.errors import RecipeError
from models.devices import choose_device, choose_precision


@pytest.fixture
def bare(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)


@pytest.fixture
def two_gpus(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)


def test_auto_is_the_cpu_where_there_is_nothing_else(bare):
    assert choose_device("auto") == "cpu"


def test_auto_prefers_cuda_to_mps_to_the_cpu(two_gpus, monkeypatch):
    assert choose_device("auto") == "cuda"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("auto") == "mps"


@pytest.mark.parametrize("wanted", ["cuda", "cuda:0", "mps"])
def test_a_device_that_is_not_there_is_refused(bare, wanted):
    with pytest.raises(RecipeError, match=wanted):
        choose_device(wanted)


def test_a_cuda_index_must_exist(two_gpus):
    assert choose_device("cuda:1") == "cuda:1"
    with pytest.raises(RecipeError, match="sees 2 CUDA devices"):
        choose_device("cuda:2")


@pytest.mark.parametrize("wanted", ["gpu", "cuda:", "cuda:one", "cpu:0", ""])
def test_an_unknown_device_is_refused(two_gpus, wanted):
    with pytest.raises(RecipeError, match="is not known"):
        choose_device(wanted)


@pytest.mark.parametrize(
    ("device", "expected"),
    [("cuda", "float16"), ("cuda:1", "float16"), ("cpu", "float32"), ("mps", "float32")],
)
def test_auto_precision_follows_the_device(device, expected):
    assert choose_precision("auto", device) == expected


def test_an_explicit_precision_is_honoured():
    assert choose_precision("float32", "cuda") == "float32"
    assert choose_precision("bfloat16", "cpu") == "bfloat16"
    assert choose_precision("float16", "mps") == "float16"


def test_float16_on_a_cpu_is_refused():
    with pytest.raises(RecipeError, match="float16 on a CPU"):
        choose_precision("float16", "cpu")
