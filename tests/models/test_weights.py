"""Digests of weight files: of their content, remembered, and never remembered wrongly."""

import hashlib
import json
import os

import pytest

from config.errors import RecipeError
from models import weights
from models.weights import weights_digest


@pytest.fixture
def folder(tmp_path):
    home = tmp_path / "model"
    home.mkdir()
    (home / "b.safetensors").write_bytes(b"second")
    (home / "a.safetensors").write_bytes(b"first")
    return home


@pytest.fixture
def reads(monkeypatch):
    """How many files were really read."""
    counted = []
    real = hashlib.file_digest

    def counting(stream, name):
        counted.append(stream.name)
        return real(stream, name)

    monkeypatch.setattr(weights.hashlib, "file_digest", counting)
    return counted


def test_the_digest_is_over_names_and_contents_in_order_of_names(folder, tmp_path):
    files = [folder / "b.safetensors", folder / "a.safetensors"]
    first, second = (hashlib.sha256(text).hexdigest() for text in (b"first", b"second"))
    by_hand = f"a.safetensors\0{first}\nb.safetensors\0{second}\n".encode()
    expected = hashlib.sha256(by_hand).hexdigest()
    assert weights_digest(files, tmp_path / "cache") == expected
    assert weights_digest(files[::-1], tmp_path / "cache") == expected


def test_a_file_is_read_once(folder, tmp_path, reads):
    files = sorted(folder.iterdir())
    first = weights_digest(files, tmp_path / "cache")
    assert weights_digest(files, tmp_path / "cache") == first
    assert len(reads) == 2


def test_a_changed_file_is_read_again(folder, tmp_path, reads):
    path = folder / "a.safetensors"
    before = weights_digest([path], tmp_path / "cache")
    stamp = path.stat().st_mtime_ns
    path.write_bytes(b"FIRST")  # as long as before
    os.utime(path, ns=(stamp + 1, stamp + 1))
    assert weights_digest([path], tmp_path / "cache") != before
    assert len(reads) == 2
    assert len(json.loads((tmp_path / "cache" / "weights.json").read_text())) == 1


def test_moving_the_directory_does_not_change_the_digest(folder, tmp_path):
    before = weights_digest(sorted(folder.iterdir()), tmp_path / "cache")
    moved = folder.rename(tmp_path / "elsewhere")
    assert weights_digest(sorted(moved.iterdir()), tmp_path / "cache") == before


def test_a_link_shares_the_entry_of_its_file(folder, tmp_path, reads):
    links = tmp_path / "snapshot"
    links.mkdir()
    (links / "a.safetensors").symlink_to(folder / "a.safetensors")
    cache = tmp_path / "cache"
    assert weights_digest([links / "a.safetensors"], cache) == weights_digest(
        [folder / "a.safetensors"], cache
    )
    assert len(reads) == 1


@pytest.mark.parametrize("damage", ["{", "[]", '{"x": 3}'])
def test_a_damaged_memory_is_rebuilt(folder, tmp_path, damage):
    files = sorted(folder.iterdir())
    right = weights_digest(files, tmp_path / "cache")
    (tmp_path / "cache" / "weights.json").write_text(damage)
    assert weights_digest(files, tmp_path / "cache") == right


def test_a_missing_file_and_an_unusable_cache_are_named(folder, tmp_path):
    with pytest.raises(RecipeError, match=r"gone\.safetensors"):
        weights_digest([folder / "gone.safetensors"], tmp_path / "cache")
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(RecipeError, match="set cache_dir"):
        weights_digest([folder / "a.safetensors"], tmp_path / "file")
