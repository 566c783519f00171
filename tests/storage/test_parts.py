"""A damaged part is told, never read as other rows."""

import io
import random

import pyarrow.parquet as pq
import pytest

from config.errors import StorageError
from storage import merging, parts
from storage.root import Root
from storage.schemas import TABLES

WORDS = ("a", "dog", "runs", "over", "the", "green", "hill", "while", "two", "men", "watch")


@pytest.fixture
def root(tmp_path):
    return Root(tmp_path / "set")


def write(root, drawn):
    rows = [
        {
            "id": f"{n}",
            "key": f"{drawn.getrandbits(256):064x}",
            "text": " ".join(drawn.choices(WORDS, k=30)),
        }
        for n in range(50)
    ]
    return parts.write_rows(root, "captions", "r", rows, TABLES["captions"])


def flipped(data, bit):
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def test_a_flipped_bit_in_the_rows_is_an_error_or_changes_none(root):
    drawn = random.Random(7)
    path = write(root, drawn)
    sound, rows = root.read_bytes(path), parts.read_part(root, path)
    footer = len(sound) - 8 - int.from_bytes(sound[-8:-4], "little")  # `verify` sees its columns
    refused = 0
    for _ in range(500):
        root.write_bytes(path, flipped(sound, drawn.randrange(8 * footer)))
        try:
            assert parts.read_part(root, path).equals(rows)
        except StorageError:
            refused += 1
    assert refused > 400


def test_a_part_with_a_flipped_bit_is_not_merged(root):
    drawn = random.Random(3)
    first = write(root, drawn)
    for _ in range(8):
        write(root, drawn)
    sound = root.read_bytes(first)
    place = TABLES["captions"].names.index("text")
    texts = pq.read_metadata(io.BytesIO(sound)).row_group(0).column(place)
    start = texts.dictionary_page_offset or texts.data_page_offset
    last = start + texts.total_compressed_size - 1  # the end of the column's last page
    damaged = flipped(sound, 8 * last)
    root.write_bytes(first, damaged)
    found = merging.merge_small(root, "captions", "r")
    assert found.unreadable == 1
    assert root.read_bytes(first) == damaged  # what is left of it is still there
    assert set(parts.paths(root, "captions", "r")) >= {first}
