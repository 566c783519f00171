import errno
import os
import uuid

import pytest

from config.errors import StorageError
from storage.root import Root


@pytest.fixture(params=["local", "memory"])
def root(request, tmp_path):
    if request.param == "local":
        return Root(tmp_path / "set")
    return Root(f"memory://root-{uuid.uuid4().hex}")


def test_what_is_written_is_read_back_and_listed(root):
    root.write_bytes("tables/a/part-1.parquet", b"one")
    root.write_bytes("tables/a/part-2.parquet", b"two")
    assert root.read_bytes("tables/a/part-1.parquet") == b"one"
    assert root.list("tables/a", ".parquet") == [
        "tables/a/part-1.parquet",
        "tables/a/part-2.parquet",
    ]
    root.remove("tables/a/part-1.parquet")
    assert root.list("tables/a") == ["tables/a/part-2.parquet"]


def test_nothing_temporary_is_left_or_listed(root):
    root.write_bytes("a/b", b"1")
    root.write_bytes("a/b", b"2")
    assert root.read_bytes("a/b") == b"2"
    assert [str(p).rsplit("/", 1)[-1] for p in root.fs.ls(root.full("a"), detail=False)] == ["b"]


def test_json_that_is_not_there_is_none(root):
    assert root.read_json("none.json") is None
    root.write_json("some.json", {"a": 1})
    assert root.read_json("some.json") == {"a": 1}


def test_the_identity_is_made_once(root):
    assert root.id == Root(root.url).id


@pytest.mark.parametrize("path", ["../x", "a/../../x", "/etc/passwd"])
def test_a_path_never_leaves_the_root(root, path):
    with pytest.raises(StorageError, match="leaves the dataset's root"):
        root.write_bytes(path, b"")


def test_a_full_disk_is_one_clear_error_and_leaves_nothing(tmp_path, monkeypatch):
    root = Root(tmp_path / "set")
    root.write_bytes("a", b"old")

    def full(_descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match=r"No space left on device.*free space"):
        root.write_bytes("a", b"new")
    assert root.read_bytes("a") == b"old"
    assert os.listdir(root.path) == ["a"]


def test_a_root_of_another_format_is_refused(root):
    root.write_json("root.json", {"id": "x", "format": 99})
    with pytest.raises(StorageError, match="format 99, this version reads 1"):
        _ = root.id


def test_an_unknown_protocol_says_what_to_give():
    with pytest.raises(StorageError, match="Give a folder or an fsspec URL"):
        Root("nonsense://x")
