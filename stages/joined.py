"""All that is known of every row, joined: its texts, its contrast, and where it stands."""

from __future__ import annotations

from stages.base import UNIT_SQL, Work
from stages.chain import CAPTION, EMBED_CLIP, EXTRACT, IMAGES, RESAMPLE, REWRITE, SCAN
from stages.extract import extract_keys_sql
from stages.units import neighbours_sql, rows_sql, units_sql
from storage.tables import Tables


def create_joined(work: Work, tables: Tables) -> None:
    """Makes the temporary tables `unit_state`, one line a unit, and `joined`, one line a row."""
    tables.execute(f"CREATE OR REPLACE TEMP TABLE unit_state AS {_unit_state_sql(work, tables)}")
    tables.execute(f"CREATE OR REPLACE TEMP TABLE joined AS {_joined_sql(work, tables)}")


def alike_sql(work: Work, tables: Tables) -> str:
    """Pairs of images above the near-duplicate ceiling."""
    pairs = tables.source("pairs", work.chain.of(SCAN))
    return f"SELECT image_a, image_b FROM {pairs} WHERE near_duplicate"


def _failed_sql(work: Work, tables: Tables, stage: str, column: str) -> str:
    recipe = work.chain.of(stage)
    return (
        f"(SELECT DISTINCT {column} AS failed FROM {tables.source('failures', recipe)} "
        f"WHERE stage = '{stage}')"
    )


def _unit_state_sql(work: Work, tables: Tables) -> str:
    """unit, its rewrite, and the first stage that has not done it: as failed or as pending."""
    captions = tables.source("captions", work.chain.of(CAPTION))
    extractions = tables.source("extractions", work.chain.of(EXTRACT))
    rewrites = tables.source("rewrites", work.chain.of(REWRITE))
    return (
        "WITH ready AS MATERIALIZED (" + extract_keys_sql(work, tables) + ") "
        "SELECT u.unit, r.id AS rewrite_id, r.chosen, r.rejected, "
        "CASE WHEN c.key IS NULL THEN 'caption' WHEN k.key IS NULL THEN 'resample' "
        "WHEN e.key IS NULL THEN 'extract' "
        "WHEN r.key IS NULL AND e.consistent + e.inconsistent > 0 THEN 'rewrite' END AS missing, "
        "CASE missing WHEN 'caption' THEN fc.failed IS NOT NULL "
        "WHEN 'resample' THEN fr.failed IS NOT NULL WHEN 'extract' THEN fe.failed IS NOT NULL "
        "WHEN 'rewrite' THEN fw.failed IS NOT NULL END AS failed "
        f"FROM {units_sql(work, tables)} AS u "
        f"LEFT JOIN (SELECT key FROM {captions}) AS c ON c.key = u.image "
        "LEFT JOIN ready AS k ON k.unit = u.unit "
        f"LEFT JOIN (SELECT key, content, consistent, inconsistent FROM {extractions}) AS e "
        "ON e.key = k.key "
        f"LEFT JOIN (SELECT key, id, chosen, rejected FROM {rewrites}) AS r "
        "ON r.key = left(sha256(u.unit || ':' || e.content), 32) "
        f"LEFT JOIN {_failed_sql(work, tables, CAPTION, 'key')} AS fc ON fc.failed = u.image "
        f"LEFT JOIN {_failed_sql(work, tables, RESAMPLE, 'unit')} AS fr ON fr.failed = u.unit "
        f"LEFT JOIN {_failed_sql(work, tables, EXTRACT, 'key')} AS fe ON fe.failed = k.key "
        f"LEFT JOIN {_failed_sql(work, tables, REWRITE, 'key')} AS fw "
        "ON fw.failed = left(sha256(u.unit || ':' || e.content), 32)"
    )


def _joined_sql(work: Work, tables: Tables) -> str:
    images = tables.source("images", IMAGES)
    other = UNIT_SQL.format(image="n.found.n", prompt="r.prompt")
    inputs = tables.source("inputs", work.ingest)
    return (
        "SELECT r.row_id, r.prompt, r.image, i.path AS image_path, "
        "n.found.n AS neighbour, j.path AS neighbour_path, "
        "n.found.c AS clip_cosine, n.found.d AS dino_cosine, n.strategy, n.id AS neighbour_id, "
        "a.rewrite_id, a.chosen, a.rejected, b.rewrite_id AS neighbour_rewrite_id, "
        "b.chosen AS neighbour_chosen, b.rejected AS neighbour_rejected, "
        "coalesce(CASE WHEN a.failed THEN a.missing END, "
        "CASE WHEN x.failed IS NOT NULL THEN 'embed_clip' END) AS failed_stage, "
        "CASE WHEN NOT a.failed THEN a.missing END AS pending_stage, "
        "CASE WHEN b.failed THEN b.missing END AS neighbour_failed_stage, "
        "CASE WHEN NOT b.failed THEN b.missing END AS neighbour_pending_stage, "
        "o.external_ids "
        f"FROM {rows_sql(work, tables)} AS r "
        f"LEFT JOIN {neighbours_sql(work, tables)} AS n ON n.key = r.image "
        f"LEFT JOIN {images} AS i ON i.key = r.image "
        f"LEFT JOIN {images} AS j ON j.key = n.found.n "
        "LEFT JOIN unit_state AS a ON a.unit = r.row_id "
        f"LEFT JOIN unit_state AS b ON b.unit = {other} "
        f"LEFT JOIN (SELECT x.failed FROM {_failed_sql(work, tables, EMBED_CLIP, 'key')} AS x "
        f"ANTI JOIN {tables.keys('embeddings', work.chain.of(EMBED_CLIP))} AS v "
        "ON v.key = x.failed) AS x ON x.failed = r.image "
        "LEFT JOIN (SELECT row_id, list(DISTINCT external_id ORDER BY external_id) "
        f"FILTER (WHERE external_id IS NOT NULL) AS external_ids FROM {inputs} "
        "WHERE row_id IS NOT NULL GROUP BY row_id) AS o ON o.row_id = r.row_id"
    )
