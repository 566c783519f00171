"""A dataset's Parquet becomes rows; what cannot be trained on is counted with its reason."""

from __future__ import annotations

import hashlib

import pyarrow as pa
import pytest

from config.errors import StorageError
from storage import parts
from storage.root import Root
from storage.schemas import PREFERENCES
from train.objectives import get
from train.rows import read_dataset

DIGEST = "d" * 32


def record(number, **changes):
    row = {
        "row_id": f"row-{number}",
        "split": "train",
        "prompt": "What is here?",
        "image": f"{number:02d}aa",
        "image_path": f"images/{number:02d}/{number:02d}aa.png",
        "chosen": " A cat. \n",
        "rejected": "A dog.",
        "neighbour": "99bb",
        "neighbour_path": "images/99/99bb.png",
        "neighbour_chosen": "A fox.",
    }
    return {**row, **changes}


def write(root, records, lost=()):
    for name in {r[f"{slot}_path"] for r in records for slot in ("image", "neighbour")} - set(lost):
        root.write_bytes(name, b"picture")
    data = parts.to_parquet(pa.Table.from_pylist(records, schema=PREFERENCES))
    path = "preferences/part-00000.parquet"
    root.write_bytes(f"datasets/{DIGEST}/{path}", data)
    file = {"path": path, "rows": len(records), "sha256": hashlib.sha256(data).hexdigest()}
    root.write_json(f"datasets/{DIGEST}/manifest.json", {"files": [file], "digest": DIGEST})
    root.write_json("current.json", {"ingest": None, "digests": {}, "dataset": DIGEST})


@pytest.fixture
def root(tmp_path):
    return Root(tmp_path)


def test_a_row_has_what_its_objective_asks_for(root):
    write(root, [record(1), record(2, split="test"), record(3)])
    found = read_dataset(root, get("symmpo").combinations)
    assert found.digest == DIGEST
    assert [row.row_id for row in found.rows] == ["row-1", "row-3"]
    assert found.rows[0].images == {
        "image": "images/01/01aa.png",
        "neighbour": "images/99/99bb.png",
    }
    assert found.rows[0].responses == {
        "chosen": "A cat.",
        "rejected": "A dog.",
        "neighbour_chosen": "A fox.",
    }
    assert [row.row_id for row in read_dataset(root, get("dpo").combinations, "test").rows] == [
        "row-2"
    ]
    (row, _) = read_dataset(root, get("sft").combinations).rows
    assert set(row.responses) == {"chosen"}
    assert set(row.images) == {"image"}
    (row, _) = read_dataset(root, get("mdpo").combinations).rows
    assert set(row.images) == {"image"}  # the crop is cut from it


def test_refused_rows_are_counted_with_their_reasons(root):
    lost = "images/05/05aa.png"
    write(
        root,
        [
            record(1),
            record(2, prompt=" "),
            record(3, rejected=None),
            record(4, rejected="  "),
            record(5),
            record(6, rejected="\n"),
        ],
        lost=[lost],
    )
    found = read_dataset(root, get("dpo").combinations)
    assert [row.row_id for row in found.rows] == ["row-1"]
    assert found.refused == {
        "no_prompt": 1,
        "no_response": 1,
        "empty_response": 2,
        "missing_image": 1,
    }
    assert lost in found.examples["missing_image"]
    assert "row-4" in found.examples["empty_response"]
    # what an objective does not need, it does not miss
    assert len(read_dataset(root, get("jompo").combinations).rows) == 4


def test_an_upright_view_is_read_where_there_is_one(root):
    write(root, [record(1)])
    root.write_bytes("views/01/01aa.png", b"upright")
    (row,) = read_dataset(root, get("dpo").combinations).rows
    assert row.images == {"image": "views/01/01aa.png"}


def test_a_dataset_that_is_not_whole_is_refused(root):
    with pytest.raises(StorageError, match="no dataset yet"):
        read_dataset(root, get("dpo").combinations)
    write(root, [record(1, split="test")])
    with pytest.raises(StorageError, match="no row to train on in split 'train'"):
        read_dataset(root, get("dpo").combinations)
    with pytest.raises(StorageError, match=f"there are {DIGEST}"):
        read_dataset(root, get("dpo").combinations, digest="e" * 32)
    part = f"datasets/{DIGEST}/preferences/part-00000.parquet"
    root.write_bytes(part, root.read_bytes(part) + b" ")
    with pytest.raises(StorageError, match="SHA-256"):
        read_dataset(root, get("dpo").combinations, "test")
