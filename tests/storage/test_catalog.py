import uuid

import duckdb
import numpy as np
import pytest

from config.errors import StorageError
from storage import parts
from storage.catalog import query, write_catalog
from storage.mending import drop_duplicates
from storage.root import Root
from storage.schemas import CAPTIONS, TABLES
from storage.tables import Tables
from storage.vectors import TABLE, vectors_table


def caption(key, text="t"):
    return {"id": f"id-{key}", "key": key, "image": key, "text": text, "content": "c"}


@pytest.fixture
def root(tmp_path):
    found = Root(tmp_path / "it's a set")
    parts.write_rows(found, "captions", "new", [caption("a"), caption("b")], CAPTIONS)
    parts.write_rows(found, "captions", "old", [caption("a", "older")], CAPTIONS)
    found.write_json(
        "current.json", {"ingest": None, "digests": {"caption": "new"}, "dataset": None}
    )
    return found


def test_views_show_the_current_recipe_and_history_all(root):
    assert query(root, "SELECT key FROM captions ORDER BY key").to_pylist() == [
        {"key": "a"},
        {"key": "b"},
    ]
    found = query(root, "SELECT recipe, text FROM history.captions WHERE key = 'a' ORDER BY 1")
    assert found.to_pylist() == [
        {"recipe": "new", "text": "t"},
        {"recipe": "old", "text": "older"},
    ]


def test_failures_of_several_recipes_stand_in_the_history(root):
    for stage in ("caption", "rewrite"):
        failure = {"stage": stage, "recipe": f"recipe-{stage}", "key": "a", "unit": "a"}
        parts.write_rows(root, "failures", f"recipe-{stage}", [failure], TABLES["failures"])
    write_catalog(root)
    found = query(root, "SELECT stage, recipe FROM history.failures ORDER BY 1").to_pylist()
    assert found == [
        {"stage": "caption", "recipe": "recipe-caption"},
        {"stage": "rewrite", "recipe": "recipe-rewrite"},
    ]


def test_every_view_answers_on_a_root_that_holds_nothing(tmp_path):
    empty = Root(tmp_path / "empty")
    for view in ("rows", "images", "preferences", "lineage", "failures", "history.claims"):
        assert query(empty, f"SELECT * FROM {view}").num_rows == 0


@pytest.mark.parametrize(
    ("sql", "message"),
    [
        ("DROP VIEW captions", "DROP statement"),
        ("CREATE TABLE x AS SELECT 1", "CREATE statement"),
        ("COPY (SELECT 1) TO 'x.csv'", "COPY statement"),
        ("SELECT 1; SELECT 2", "2 statements"),
        ("ATTACH 'x.db'", "ATTACH statement"),
        ("SET threads = 1", "SET statement"),
        ("SELEC 1", "not SQL"),
        ("SELECT * FROM nothing", "the query failed"),
        ("SELECT * FROM read_csv('/etc/passwd')", "the query failed"),
        ("SELECT * FROM '/etc/passwd'", "the query failed"),
    ],
)
def test_a_query_only_reads_and_only_the_root(root, sql, message):
    with pytest.raises(StorageError, match=message):
        query(root, sql)


def test_any_client_opens_the_catalogue_and_an_open_one_survives_a_new_one(root):
    write_catalog(root)
    connection = duckdb.connect(root.full("catalog.duckdb"), read_only=True)
    assert connection.sql("SELECT count(*) FROM captions").fetchall() == [(2,)]
    parts.write_rows(root, "captions", "new", [caption("c")], CAPTIONS)
    write_catalog(root)
    assert connection.sql("SELECT count(*) FROM captions").fetchall() == [(3,)]
    connection.close()


def test_rows_that_two_writers_wrote_are_made_one(root):
    parts.write_rows(root, "captions", "new", [caption("b"), caption("c")], CAPTIONS)
    with Tables(root) as tables:
        assert drop_duplicates(root, tables, "captions", "new") == 1
        assert drop_duplicates(root, tables, "captions", "new") == 0
    found = query(root, "SELECT key FROM captions ORDER BY key").to_pylist()
    assert [row["key"] for row in found] == ["a", "b", "c"]


def test_a_cut_part_is_named_with_what_to_do(root):
    [path] = parts.paths(root, "captions", "old")
    root.write_bytes(path, root.read_bytes(path)[:50])
    with pytest.raises(StorageError, match=r"not a whole Parquet file.*Delete it"):
        list(parts.read_parts(root, "captions", "old"))


def test_a_query_on_a_remote_root_reads_nothing_else():
    remote = Root(f"memory://catalog-{uuid.uuid4().hex}")
    parts.write_rows(remote, "captions", "new", [caption("a")], CAPTIONS)
    remote.write_json(
        "current.json", {"ingest": None, "digests": {"caption": "new"}, "dataset": None}
    )
    assert query(remote, "SELECT key FROM captions").to_pylist() == [{"key": "a"}]
    with pytest.raises(StorageError, match="the query failed"):
        query(remote, "SELECT * FROM read_text('/etc/hostname')")


@pytest.mark.parametrize("remote", [False, True])
def test_nothing_is_written_through_a_query(root, remote, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # DuckDB's own spill folder would be `.tmp` here
    place = Root(f"memory://catalog-{uuid.uuid4().hex}") if remote else root
    goal = place.url_of("made.csv").replace("'", "''")
    copy = f"COPY (SELECT 1) TO '{goal}'"
    quoted = copy.replace("'", "''")
    for sql in (
        f"EXPLAIN ANALYZE {copy}",
        f"explain /* */ analyze {copy}",
        f"EXPLAIN (ANALYZE) {copy}",
        f"WITH made AS ({copy}) SELECT 1",
        f"EXPLAIN ANALYZE WITH made AS ({copy}) SELECT 1",
        f"SELECT * FROM (WITH made AS ({copy}) SELECT 1)",
        f"SELECT * FROM query('WITH made AS ({quoted}) SELECT 1')",
        "EXPLAIN ANALYZE CREATE TABLE made AS SELECT 1",
        "WITH made AS (INSERT INTO captions VALUES (1) RETURNING *) SELECT 1",
        f"COPY (SELECT 1) TO '{tmp_path}/.tmp/made.csv'",
        "SELECT getenv('HOME')",
    ):
        with pytest.raises(StorageError):
            query(place, sql)
    assert not place.exists("made.csv")
    assert not (tmp_path / ".tmp").exists()


@pytest.mark.parametrize(
    "sql",
    [
        "EXPLAIN SELECT * FROM captions",
        "EXPLAIN ANALYZE SELECT * FROM captions",
        "DESCRIBE captions",
        "SUMMARIZE captions",
        "SHOW TABLES",
        "FROM captions",
        "VALUES (1)",
        "WITH RECURSIVE t(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM t WHERE n < 3) FROM t",
        "WITH a AS MATERIALIZED (SELECT 1) SELECT * FROM a UNION SELECT 2",
        "SELECT * FROM (PIVOT captions ON key IN ('a') USING count(*))",
    ],
)
def test_every_form_of_a_select_is_run(root, sql):
    assert query(root, sql).num_rows > 0


def test_failures_of_embedding_are_shown_until_there_is_a_vector(root):
    row = {"stage": "embed_clip", "key": "a", "unit": "a", "error_class": "UnreadableImage"}
    parts.write_rows(root, "failures", "clip", [row], TABLES["failures"])
    digests = {"caption": "new", "embed_clip": "clip"}
    root.write_json("current.json", {"ingest": None, "digests": digests, "dataset": None})
    assert query(root, "SELECT stage FROM failures").to_pylist() == [{"stage": "embed_clip"}]
    parts.write_table(root, TABLE, "clip", vectors_table(["a"], np.ones((1, 2))))
    assert query(root, "SELECT * FROM failures").num_rows == 0


def test_a_failure_from_older_texts_is_over_once_its_unit_has_an_output(root):
    failed = {"stage": "extract", "key": "old texts", "unit": "u", "run_id": "2"}
    parts.write_rows(root, "failures", "e", [failed], TABLES["failures"])
    root.write_json("current.json", {"ingest": None, "digests": {"extract": "e"}, "dataset": None})
    done = {"key": "older texts", "unit": "u", "run_id": "1"}
    parts.write_rows(root, "extractions", "e", [done], TABLES["extractions"])
    assert query(root, "SELECT key FROM failures").num_rows == 1
    done = {"key": "new texts", "unit": "u", "run_id": "3"}
    parts.write_rows(root, "extractions", "e", [done], TABLES["extractions"])
    assert query(root, "SELECT key FROM failures").num_rows == 0
