"""Small parts made few: nothing lost, nothing doubled, whenever it is killed."""

import signal
import subprocess
import sys
from collections import Counter

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage import merging, parts
from storage.root import Root
from storage.schemas import TABLES
from storage.tables import Tables
from storage.vectors import load_vectors, vectors_table

# Merges, and kills itself before the nth change under the root, as a power failure would.
KILLED = """
import os, signal, sys
from storage import merging
from storage.root import Root
left = int(sys.argv[2])
def counted(change):
    def run(self, *arguments):
        global left
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        left -= 1
        return change(self, *arguments)
    return run
for name in ("write_bytes", "rename", "remove"):
    setattr(Root, name, counted(getattr(Root, name)))
merging.finish(Root(sys.argv[1]))
merging.merge_small(Root(sys.argv[1]), "captions", "r", few=2)
"""
CHANGES = (
    7  # the staged part, merging.json, the renaming, three parts removed, merging.json removed
)


@pytest.fixture
def root(tmp_path):
    return Root(tmp_path / "set")


def write(root, keys, table="captions"):
    rows = [{"id": f"id-{key}", "key": key} for key in keys]
    return parts.write_rows(root, table, "r", rows, TABLES[table])


def rows_seen(root, table="captions"):
    """The rows as the two ways of reading see them: by DuckDB and part by part."""
    with Tables(root) as tables:
        by_sql = Counter(
            r["key"] for r in tables.rows(f"SELECT key FROM {tables.source(table, 'r')}")
        )
    found = [part.column("key").to_pylist() for part in parts.read_parts(root, table, "r")]
    assert Counter(key for part in found for key in part) == by_sql
    return by_sql


def test_many_small_parts_become_one_and_few_are_left_as_they_are(root):
    for number in range(7):
        write(root, [f"a{number}"])
    assert merging.merge_small(root, "captions", "r") == merging.Merged(7, 7, 0)
    write(root, ["a7"])
    before = rows_seen(root)
    assert merging.merge_small(root, "captions", "r") == merging.Merged(8, 1, 0)
    assert rows_seen(root) == before
    assert len(parts.paths(root, "captions", "r")) == 1
    assert merging.merge_small(root, "captions", "r") == merging.Merged(1, 1, 0)


@pytest.mark.parametrize("changes", range(CHANGES + 1))
def test_killed_at_any_change_no_row_is_lost_or_doubled_and_the_next_goes_on(root, changes):
    for number in range(3):
        write(root, [f"k{number}", "twice"])
    before = rows_seen(root)
    ended = subprocess.run([sys.executable, "-c", KILLED, root.url, str(changes)], check=False)
    assert ended.returncode == (-signal.SIGKILL if changes < CHANGES else 0)
    assert rows_seen(root) == before
    write(root, ["later"])
    assert rows_seen(root) == before + Counter(["later"])
    assert merging.finish(root) == (1 if 2 <= changes < CHANGES else 0)
    assert rows_seen(root) == before + Counter(["later"])
    merging.merge_small(root, "captions", "r", few=2)
    assert rows_seen(root) == before + Counter(["later"])
    assert len(parts.paths(root, "captions", "r")) == 1
    assert not root.exists(f"tables/captions/r/{parts.MERGING}")


def test_a_renaming_by_copy_that_was_cut_short_doubles_nothing(root, monkeypatch):
    """An object store renames by copying and deleting: both may be there."""
    for number in range(3):
        write(root, [f"k{number}"])
    before = rows_seen(root)

    def copied(self, relative, to):
        self.write_bytes(to, self.read_bytes(relative))
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Root, "rename", copied)
        with pytest.raises(KeyboardInterrupt):
            merging.merge_small(root, "captions", "r", few=2)
    assert rows_seen(root) == before
    assert merging.finish(root) == 1
    assert rows_seen(root) == before
    assert len(parts.paths(root, "captions", "r")) == 1


sizes = st.lists(st.lists(st.integers(0, 20), max_size=12), max_size=12)


@settings(max_examples=25)
@given(sizes=sizes, few=st.integers(2, 5), part_rows=st.integers(1, 30))
def test_the_content_is_the_same_before_and_after(tmp_path_factory, sizes, few, part_rows):
    root = Root(tmp_path_factory.mktemp("set"))
    for rows in sizes:
        write(root, [str(row) for row in rows], "failures")
    before = rows_seen(root, "failures")
    found = merging.merge_small(root, "failures", "r", few=few, part_rows=part_rows)
    assert rows_seen(root, "failures") == before
    assert len(parts.paths(root, "failures", "r")) == found.after <= found.before == len(sizes)
    assert found.unreadable == 0


def test_a_merge_ends_at_the_size_given(root):
    for number in range(20):
        write(root, [f"{number}-{i}" for i in range(10)])
    found = merging.merge_small(root, "captions", "r", part_rows=50)
    assert found == merging.Merged(20, 4, 0)
    assert sorted(part.num_rows for part in parts.read_parts(root, "captions", "r")) == [50] * 4


def test_vectors_are_merged_bit_for_bit(root):
    vectors = np.random.default_rng(0).normal(size=(40, 6)).astype(np.float16)
    keys = [f"{number:064x}" for number in range(40)]
    for start in range(0, 40, 4):
        some = slice(start, start + 4)
        parts.write_table(root, "embeddings", "r", vectors_table(keys[some], vectors[some]))
    assert merging.merge_small(root, "embeddings", "r") == merging.Merged(10, 1, 0)
    assert load_vectors(root, "r", keys).tobytes() == vectors.tobytes()


def test_parts_with_other_columns_are_not_mixed_and_other_files_stay(root):
    for number in range(4):
        write(root, [f"a{number}"])
        old = pa.table({"id": [f"old-{number}"], "key": [f"old-{number}"]})
        parts.write_table(root, "captions", "r", old)
    root.write_json("tables/captions/r/counts/000000.json", {"edges": []})
    before = rows_seen(root)
    assert merging.merge_small(root, "captions", "r") == merging.Merged(8, 2, 0)
    assert rows_seen(root) == before
    assert root.read_json("tables/captions/r/counts/000000.json") == {"edges": []}


def test_a_part_that_is_cut_short_stands_as_it_was_and_is_counted(root):
    for number in range(8):
        write(root, [f"a{number}"])
    torn = f"{parts.directory('captions', 'r')}/part-torn.parquet"
    data = root.read_bytes(write(root, ["torn"]))
    root.write_bytes(torn, data[: len(data) // 2])
    assert merging.merge_small(root, "captions", "r") == merging.Merged(10, 2, 1)
    assert root.read_bytes(torn) == data[: len(data) // 2]
