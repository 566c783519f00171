"""The rows of a run and the units behind them, as SQL over the tables.

A row is (m, x). A unit is an (image, prompt) that is sampled, compared and rewritten: every row
is one, and so is (m', x) for every row that has a contrastive image m'.
"""

from __future__ import annotations

from stages.base import UNIT_SQL, Work
from stages.chain import IMAGES, MINE
from storage.tables import Tables


def rows_sql(work: Work, tables: Tables) -> str:
    """row_id, image, prompt: the rows of the newest ingest, each once."""
    return (
        "(SELECT row_id, any_value(image) AS image, any_value(prompt) AS prompt "
        f"FROM {tables.source('inputs', work.ingest)} WHERE status = 'accepted' GROUP BY row_id)"
    )


def images_sql(work: Work, tables: Tables) -> str:
    """key and paths of the images that the rows name."""
    return (
        f"(SELECT * FROM {tables.source('images', IMAGES)} "
        f"WHERE key IN (SELECT image FROM {rows_sql(work, tables)}))"
    )


def neighbours_sql(work: Work, tables: Tables) -> str:
    """Each image's newest contrastive image; null where it has none."""
    source = tables.source("neighbours", work.chain.of(MINE))
    return (
        "(SELECT key, arg_max(id, generation) AS id, "
        "arg_max({'n': neighbour, 'c': clip_cosine, 'd': dino_cosine}, generation) AS found, "
        "any_value(strategy) AS strategy "
        f"FROM {source} GROUP BY key)"
    )


def units_sql(work: Work, tables: Tables) -> str:
    """unit, image, prompt: what has to be sampled for the rows that can be kept."""
    rows = rows_sql(work, tables)
    neighbours = neighbours_sql(work, tables)
    other = UNIT_SQL.format(image="found.n", prompt="prompt")
    # A row without m' will be dropped where m' is required: no call is spent on it.
    own = "WHERE found.n IS NOT NULL" if work.recipe.assemble.require_neighbour else ""
    return (
        "(WITH matched AS ("
        f"SELECT row_id, image, prompt, found FROM {rows} AS r LEFT JOIN {neighbours} AS n "
        "ON n.key = r.image) "
        f"SELECT row_id AS unit, image, prompt FROM matched {own} UNION "
        f"SELECT {other}, found.n, prompt FROM matched WHERE found.n IS NOT NULL)"
    )


def with_image_paths(work: Work, tables: Tables, chunk: str) -> str:
    """The chunk's rows with `image_path`: the root-relative path of what a model is given."""
    images = tables.source("images", IMAGES)
    return (
        "SELECT c.*, coalesce(i.view_path, i.path) AS image_path "
        f"FROM {chunk} AS c JOIN {images} AS i ON i.key = c.image"
    )
