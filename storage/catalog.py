"""Read-only SQL over a root: views of the current run, of all history, and the lineage join.

The views of schema `main` show what the newest run's recipe stands for; schema `history` holds
every row ever written, with its recipe digest.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from config.errors import StorageError
from storage.root import Root
from storage.schemas import TABLES
from storage.tables import Tables, connect, empty_source, parquet_source

CATALOG = "catalog.duckdb"
CURRENT = "current.json"

# stage -> its table, for the views of the current run
_STAGE_TABLES = {
    "scan": ("scans", "pairs"),
    "mine": ("neighbours", "blind_pairs"),
    "caption": ("captions",),
    "resample": ("answers",),
    "extract": ("extractions", "claims"),
    "rewrite": ("rewrites",),
}
_OUTPUT = {
    "embed_clip": "embeddings",
    "embed_dino": "embeddings",
    **{stage: tables[0] for stage, tables in _STAGE_TABLES.items()},
}
# What a SELECT may consist of: a CTE may hold statements that write, among them COPY.
_READING_NODES = frozenset({"SELECT_NODE", "SET_OPERATION_NODE", "RECURSIVE_CTE_NODE", "CTE_NODE"})
_EXPLAIN = re.compile(r"\s*EXPLAIN\s+(?:ANALYZE\s+)?", re.IGNORECASE)


def read_current(root: Root) -> dict[str, Any]:
    """What the newest run was: its ingest, stage digests and dataset. Empty before any run."""
    return root.read_json(CURRENT) or {"ingest": None, "digests": {}, "dataset": None}


def views(root: Root, tables: Tables, current: dict[str, Any]) -> dict[str, str]:
    """SQL of every view by name, in an order in which they can be made."""
    digests: dict[str, str] = current["digests"]
    made: dict[str, str] = {
        "inputs": f"SELECT * FROM {tables.source('inputs', current['ingest'])}",
        "images": f"SELECT * FROM {tables.source('images', 'content')}",
        "rows": "SELECT row_id, any_value(image) AS image, any_value(prompt) AS prompt, "
        "list(external_id) AS external_ids FROM inputs WHERE row_id IS NOT NULL GROUP BY row_id",
    }
    for stage, names in _STAGE_TABLES.items():
        for name in names:
            made[name] = f"SELECT * FROM {tables.source(name, digests.get(stage))}"
    made["failures"] = _failures(tables, digests)
    for name in ("preferences", "decisions"):
        made[name] = f"SELECT * FROM {_dataset_source(root, name, current['dataset'])}"
    for name in TABLES:
        if name not in ("preferences", "decisions"):
            made[f"history.{name}"] = f"SELECT * FROM {tables.history(name)}"
    made["lineage"] = LINEAGE
    return made


def _dataset_source(root: Root, name: str, dataset: str | None) -> str:
    directory = f"datasets/{dataset}/{name}"
    if dataset is not None and root.list(directory, ".parquet"):
        return parquet_source(root, f"{directory}/*.parquet")
    return empty_source(TABLES[name])


def _failures(tables: Tables, digests: dict[str, str]) -> str:
    """Each row that has failed and has no output since: its newest failure; each refused record.

    Where a unit's key covers its texts, an output of a later run from other texts counts too.
    """
    selects = []
    for stage, output in _OUTPUT.items():
        recipe = digests.get(stage)
        select = (
            f"SELECT f.* FROM {tables.source('failures', recipe)} AS f "
            f"ANTI JOIN {tables.keys(output, recipe)} AS o ON o.key = f.key "
        )
        if stage in ("extract", "rewrite"):
            select += (
                f"ANTI JOIN {tables.source(output, recipe)} AS n "
                "ON n.unit = f.unit AND n.run_id > f.run_id "
            )
        selects.append(f"{select} WHERE f.stage = '{stage}'")
    selects.append(
        "SELECT 'ingest' AS stage, ingest AS recipe, source || ':' || position || ':' || item "
        "AS key, reason AS error_class, message, 1 AS attempts, ingest AS run_id "
        "FROM inputs WHERE status = 'refused'"
    )
    return (
        f"SELECT * FROM ({' UNION ALL BY NAME '.join(selects)}) "
        "QUALIFY row_number() OVER (PARTITION BY stage, key ORDER BY failed_at DESC) = 1"
    )


# One line a (preference row, side, claim, sampled answer).
LINEAGE = """
WITH sides AS (
    SELECT row_id, 'chosen' AS side, chosen AS text, rewrite_id, image, true AS good
    FROM preferences
    UNION ALL SELECT row_id, 'rejected', rejected, rewrite_id, image, false FROM preferences
    UNION ALL SELECT row_id, 'neighbour_chosen', neighbour_chosen, neighbour_rewrite_id, neighbour,
        true FROM preferences
    UNION ALL SELECT row_id, 'neighbour_rejected', neighbour_rejected, neighbour_rewrite_id,
        neighbour, false FROM preferences WHERE neighbour_rejected IS NOT NULL
),
written AS (
    SELECT s.row_id, s.side, s.text, s.image,
        r.id AS rewrite_id, r.model AS rewrite_model, r.prompt_digest AS rewrite_prompt,
        unnest(CASE WHEN s.good THEN r.chosen_claim_ids ELSE r.rejected_claim_ids END) AS claim_id
    FROM sides AS s JOIN history.rewrites AS r ON r.id = s.rewrite_id
)
SELECT w.*, c.text AS claim, c.verdict, c.evidence,
    e.id AS extraction_id, e.model AS extract_model, e.prompt_digest AS extract_prompt,
    k.id AS caption_id, k.text AS caption, k.model AS caption_model,
    k.prompt_digest AS caption_prompt,
    a.id AS answer_id, a.text AS answer, a.k, a.seed, a.model AS answer_model
FROM written AS w
JOIN history.claims AS c ON c.id = w.claim_id
JOIN history.extractions AS e ON e.id = c.extraction_id
JOIN history.captions AS k ON k.id = e.caption_id
LEFT JOIN (SELECT id AS claim, unnest(answer_ids) AS answer FROM history.claims) AS ca
    ON ca.claim = c.id
LEFT JOIN history.answers AS a ON a.id = ca.answer
"""


def make_views(connection: duckdb.DuckDBPyConnection, root: Root, tables: Tables) -> None:
    connection.execute("CREATE SCHEMA IF NOT EXISTS history")
    for name, sql in views(root, tables, read_current(root)).items():
        connection.execute(f"CREATE OR REPLACE VIEW {name} AS {sql}")


def write_catalog(root: Root) -> None:
    """Makes `catalog.duckdb` anew beside the tables and puts it in place in one step.

    Whoever has the old file open keeps reading it. Its views name absolute places, so a root
    that is moved needs a new catalogue (any run, or `vispref status`, makes it).
    """
    with tempfile.TemporaryDirectory(prefix="vispref-catalog-") as folder, Tables(root) as tables:
        path = Path(folder) / CATALOG
        connection = duckdb.connect(str(path))
        try:
            if not root.is_local:
                connection.register_filesystem(root.fs)
            make_views(connection, root, tables)
        finally:
            connection.close()
        root.write_bytes(CATALOG, path.read_bytes())


def query(root: Root, sql: str, limit: int | None = None) -> pa.Table:
    """Runs one SELECT over the views. Raises StorageError for anything that is not one.

    The connection can read the root and nothing else, and can write nothing.
    """
    statements = _statements(sql)
    if len(statements) != 1:
        raise StorageError(f"{len(statements)} statements were given, expected one SELECT")
    kind = statements[0].type
    if kind not in (duckdb.StatementType.SELECT, duckdb.StatementType.EXPLAIN):
        raise StorageError(f"a {kind.name} statement was given; only SELECT and EXPLAIN are run")
    connection = connect(root)
    scratch = tempfile.TemporaryDirectory(prefix="vispref-query-")
    try:
        _check_reads(connection, statements[0])
        with Tables(root) as tables:
            make_views(connection, root, tables)
        _seal(connection, root, scratch.name)
        relation = connection.sql(statements[0].query)
        if relation is None:
            return pa.table({})
        found: pa.Table = (relation if limit is None else relation.limit(limit)).to_arrow_table()
    except duckdb.Error as error:
        raise StorageError(f"the query failed: {error}") from error
    finally:
        connection.close()
        scratch.cleanup()
    return found


def _statements(sql: str) -> list[duckdb.Statement]:
    try:
        return duckdb.extract_statements(sql)
    except duckdb.Error as error:
        raise StorageError(f"not SQL: {error}") from error


def _check_reads(connection: duckdb.DuckDBPyConnection, statement: duckdb.Statement) -> None:
    """Raises StorageError unless the statement is a SELECT, or explains one, that only reads."""
    sql: str = statement.query
    if statement.type == duckdb.StatementType.EXPLAIN:
        sql = sql[found.end() :] if (found := _EXPLAIN.match(sql)) else sql
    made = connection.execute("SELECT json_serialize_sql(?)", [sql]).fetchone()
    tree = json.loads(made[0]) if made else {"error": True}
    if tree["error"]:
        raise StorageError(
            f"only a SELECT, or EXPLAIN and a SELECT, is run: {tree.get('error_message', sql)}"
        )
    writing = sorted(set(_query_nodes(tree)) - _READING_NODES)
    if writing:
        raise StorageError(f"the query holds {', '.join(writing)}; a query can only read")


def _query_nodes(tree: Any) -> Iterator[str]:
    if isinstance(tree, dict):
        if str(tree.get("type")).endswith("_NODE"):
            yield tree["type"]
        tree = list(tree.values())
    if isinstance(tree, list):
        for part in tree:
            yield from _query_nodes(part)


def _seal(connection: duckdb.DuckDBPyConnection, root: Root, scratch: str) -> None:
    # DuckDB may always write its spill folder, which is `.tmp` beside the user unless it is said.
    connection.execute(f"SET temp_directory = '{scratch}'")
    connection.execute("SET python_enable_replacements = false")
    folder = (os.path.abspath(root.path) if root.is_local else root.url).replace("'", "''")
    connection.execute(f"SET allowed_directories = ['{folder}/']")
    connection.execute("SET enable_external_access = false")
    connection.execute("SET lock_configuration = true")
