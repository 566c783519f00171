"""Tables put right before a stage adds to them: what a kill or a second writer left is removed.

Called under the root's lock. What is removed beyond plain copies becomes pending again and comes
back from the response cache. New parts are written before old ones are removed: a kill between
the two leaves copies, which the next mending removes.
"""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa

from storage import parts
from storage.root import Root
from storage.schemas import TABLES
from storage.tables import Tables


@dataclass(frozen=True)
class Side:
    """A table whose rows belong to a row of a stage's own table.

    owner: its column with that row's `id`. count: SQL over the own table for how many there are.
    """

    table: str
    owner: str
    count: str


SIDES = {"extractions": Side("claims", "extraction_id", "consistent + inconsistent + unverifiable")}


def mend(root: Root, tables: Tables, table: str, recipe: str) -> int:
    """Mends a stage's own table and those that belong to it; gives how many rows were removed."""
    side = SIDES.get(table)
    removed = drop_duplicates(root, tables, table, recipe)
    if side is not None:
        removed += drop_duplicates(root, tables, side.table, recipe)
        removed += _drop_partial(root, tables, table, side, recipe)
    return removed


def drop_duplicates(root: Root, tables: Tables, table: str, recipe: str) -> int:
    """Removes all but one row of each key; gives how many."""
    source = tables.source(table, recipe)
    extra = int(tables.scalar(f"SELECT count(*) - count(DISTINCT key) FROM {source}"))
    if extra:
        sql = f"SELECT DISTINCT ON (key) * FROM {source} ORDER BY key"
        _replace(root, table, recipe, tables.table(sql))
    return extra


def _drop_partial(root: Root, tables: Tables, table: str, side: Side, recipe: str) -> int:
    """Removes rows of either table that are not whole without the other."""
    own, other = tables.source(table, recipe), tables.source(side.table, recipe)
    tables.execute(
        "CREATE OR REPLACE TEMP TABLE whole AS SELECT o.id FROM "
        f"(SELECT id, {side.count} AS expected FROM {own}) AS o LEFT JOIN "
        f"(SELECT {side.owner} AS id, count(*) AS n FROM {other} GROUP BY 1) AS s ON s.id = o.id "
        "WHERE coalesce(s.n, 0) = o.expected"
    )
    removed = 0
    # The owners first: without its own row a unit is pending, whatever stands beside it.
    for name, source, column in ((table, own, "id"), (side.table, other, side.owner)):
        where = f"FROM {source} WHERE {column} IN (SELECT id FROM whole)"
        total = int(tables.scalar(f"SELECT count(*) FROM {source}"))
        lost = total - int(tables.scalar(f"SELECT count(*) {where}"))
        if lost:
            _replace(root, name, recipe, tables.table(f"SELECT * {where}"))
            removed += lost
    return removed


def _replace(root: Root, table: str, recipe: str, data: pa.Table) -> None:
    written = parts.paths(root, table, recipe)
    if data.num_rows:
        parts.write_table(root, table, recipe, data.cast(TABLES[table]))
    for path in written:
        root.remove(path)
