import pytest

from storage import parts
from storage.mending import drop_duplicates, mend
from storage.root import Root
from storage.schemas import CAPTIONS, TABLES
from storage.tables import Tables


def extraction(key, claims):
    return {
        "id": f"id-{key}", "key": key, "unit": key, "consistent": claims, "inconsistent": 0,
        "unverifiable": 0,
    }  # fmt: skip


def claims(key, n):
    return [
        {"id": f"{key}:{i}", "key": f"{key}:{i}", "extraction_id": f"id-{key}", "number": i}
        for i in range(n)
    ]


@pytest.fixture
def root(tmp_path):
    return Root(tmp_path / "set")


def write(root, table, rows):
    return parts.write_rows(root, table, "r", rows, TABLES[table])


def keys(root, table):
    found = [part.column("key").to_pylist() for part in parts.read_parts(root, table, "r")]
    return sorted(key for part in found for key in part)


def mended(root):
    with Tables(root) as tables:
        return mend(root, tables, "extractions", "r")


def test_claims_without_their_extraction_are_removed(root):
    write(root, "claims", claims("a", 2))
    write(root, "extractions", [extraction("a", 2)])
    write(root, "claims", claims("killed", 3))  # its extraction was never written
    assert mended(root) == 3
    assert keys(root, "claims") == ["a:0", "a:1"]
    assert keys(root, "extractions") == ["a"]
    assert mended(root) == 0


def test_an_extraction_whose_claims_are_gone_is_pending_again(root):
    write(root, "claims", claims("a", 2))
    lost = write(root, "claims", claims("b", 2))
    write(root, "extractions", [extraction("a", 2), extraction("b", 2), extraction("none", 0)])
    root.remove(lost)
    assert mended(root) == 1
    assert keys(root, "extractions") == ["a", "none"]


def test_both_tables_written_twice_are_made_one_of_each(root):
    for _ in range(2):
        write(root, "claims", claims("a", 2))
        write(root, "extractions", [extraction("a", 2)])
    assert mended(root) == 3
    assert keys(root, "claims") == ["a:0", "a:1"]
    assert keys(root, "extractions") == ["a"]


def test_a_unit_extracted_twice_with_different_claims_is_made_again(root):
    write(root, "claims", claims("a", 2))
    write(root, "claims", claims("a", 3))
    write(root, "extractions", [extraction("a", 2)])
    mended(root)
    assert keys(root, "extractions") == keys(root, "claims") == []


def test_a_kill_between_the_new_part_and_the_removal_of_the_old_loses_nothing(root, monkeypatch):
    row = {"id": "i", "key": "a", "image": "a", "text": "t", "content": "c"}
    for key in ("a", "a", "b"):
        parts.write_rows(root, "captions", "r", [{**row, "key": key}], CAPTIONS)
    with Tables(root) as tables, monkeypatch.context() as patch:
        patch.setattr(Root, "remove", lambda self, path: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            drop_duplicates(root, tables, "captions", "r")
    assert set(keys(root, "captions")) == {"a", "b"}
    with Tables(root) as tables:
        drop_duplicates(root, tables, "captions", "r")
    assert keys(root, "captions") == ["a", "b"]
