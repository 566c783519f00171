import csv
import io
import json

import pytest

from cli.results import print_query
from config.errors import InputError, StorageError
from storage.catalog import CURRENT
from storage.root import Root

WIDE = (
    "SELECT range AS n, range / 3.0 AS share, repeat('word ', 30) || range AS text, "
    "repeat('more ', 30) AS other, ['a', 'b'] AS list FROM range({rows})"
)


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    made = Root(tmp_path / "set")
    made.write_json(CURRENT, {"run": "r", "ingest": None, "digests": {}, "dataset": None})
    return made.url


def shown(capsys, root, sql, limit=None, **more):
    print_query(root, sql, limit, **more)
    return capsys.readouterr().out


def test_a_root_that_is_not_there_is_refused_and_not_made(tmp_path):
    with pytest.raises(StorageError, match="holds no run yet; check --root"):
        print_query(str(tmp_path / "slip"), "SELECT 1", None)
    assert not (tmp_path / "slip").exists()


def test_a_narrow_answer_is_a_table_with_numbers_on_the_right(capsys, root):
    out = shown(capsys, root, "SELECT 5 AS rows, 'a' AS name UNION ALL SELECT 1234, 'b' ORDER BY 1")
    assert [line.rstrip() for line in out.splitlines()] == [
        "rows  name", "   5  a", "1234  b",
    ]  # fmt: skip


def test_a_wide_answer_stands_one_value_a_line_and_whole(capsys, root):
    out = shown(capsys, root, WIDE.format(rows=2))
    assert out.count("-- row") == 2
    assert "…" not in out
    assert out.count("word") == 60
    assert all(len(line) <= 80 for line in out.splitlines())


def test_a_table_asked_for_is_one_line_a_row_with_long_cells_cut(capsys, root):
    out = shown(capsys, root, WIDE.format(rows=3), format="table").splitlines()
    assert len(out) == 4
    assert all(line.count("…") == 2 for line in out[1:])


def test_csv_and_json_give_every_row_whole(capsys, root):
    sql = WIDE.format(rows=70)
    found = list(csv.DictReader(io.StringIO(shown(capsys, root, sql, format="csv"))))
    assert len(found) == 70
    assert json.loads(found[0]["list"]) == ["a", "b"]
    rows = [json.loads(x) for x in shown(capsys, root, sql, format="json").splitlines()]
    assert [row["text"] for row in rows] == [row["text"] for row in found]
    assert len(shown(capsys, root, sql, 3, format="json").splitlines()) == 3


def test_more_rows_than_shown_and_none_at_all_are_said(capsys, root):
    out = shown(capsys, root, "SELECT * FROM range(60)")
    assert "the first 50 rows" in out
    assert "49" in out.split()
    assert "50" not in out.replace("the first 50 rows", "").split()
    assert "no rows" in shown(capsys, root, "SELECT 1 AS one WHERE false")


def test_an_unknown_format_is_refused(root):
    with pytest.raises(InputError, match="expected one of auto, table, vertical, csv, json"):
        print_query(root, "SELECT 1", None, "xml")
