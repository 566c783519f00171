"""Gathers a report from a dataset's root, by the same read-only queries that users have."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from config.errors import StorageError
from report.content import Claim, Lengths, Made, Pair, Picture, Report, Stage
from report.thumbnails import thumbnail
from storage.catalog import query, read_current
from storage.root import Root

TABLES = {
    "caption": "captions",
    "resample": "answers",
    "extract": "extractions",
    "rewrite": "rewrites",
}
TEXTS = ("chosen", "rejected", "neighbour_chosen")


def read_report(root: Root, pairs: int, seed: int = 0, notes: Sequence[str] = ()) -> Report:
    """The report of the newest dataset, with a sample of its pairs, the same for the same seed.

    Raises StorageError where the root holds no dataset.
    """
    current = read_current(root)
    dataset = current["dataset"]
    manifest = root.read_json(f"datasets/{dataset}/manifest.json") if dataset else None
    if manifest is None:
        raise StorageError(
            f"{root.url} holds no assembled dataset; check --root, or make one with vispref build"
        )
    decisions = query(
        root,
        "SELECT coalesce(reason, '') AS reason, coalesce(split, '') AS split, kept, "
        "count(*) AS n FROM decisions GROUP BY ALL ORDER BY n DESC, reason, split",
    ).to_pylist()
    return Report(
        name=current["recipe"]["name"],
        dataset=dataset,
        recipe=manifest.get("recipe_digest", ""),
        rows=manifest["rows"],
        kept=manifest["kept"],
        splits={row["split"]: row["n"] for row in decisions if row["kept"]},
        drops={row["reason"]: row["n"] for row in decisions if not row["kept"]},
        pairs=_pairs(root, pairs, seed),
        lengths=_lengths(root),
        stages=_stages(root, current["recipe"]),
        made=[Made(s, _model(s, current["recipe"]), d) for s, d in current["digests"].items()],
        notes=tuple(notes),
    )


def _pairs(root: Root, pairs: int, seed: int) -> list[Pair]:
    rows = query(
        root,
        "SELECT p.*, coalesce(m.view_path, p.image_path) AS shown, "
        "coalesce(n.view_path, p.neighbour_path) AS neighbour_shown "
        "FROM (SELECT * FROM preferences "
        f"ORDER BY md5(row_id || ':{int(seed)}'), row_id LIMIT {int(pairs)}) AS p "
        "LEFT JOIN images AS m ON m.key = p.image "
        "LEFT JOIN images AS n ON n.key = p.neighbour "
        f"ORDER BY md5(p.row_id || ':{int(seed)}'), p.row_id",
    ).to_pylist()
    claims = _claims(root, rows)
    return [
        Pair(
            row_id=row["row_id"],
            split=row["split"],
            prompt=row["prompt"],
            chosen=row["chosen"],
            rejected=row["rejected"],
            neighbour_chosen=row["neighbour_chosen"],
            image=thumbnail(root, row["shown"]),
            neighbour=_neighbour(root, row["neighbour_shown"]),
            clip_cosine=row["clip_cosine"],
            dino_cosine=row["dino_cosine"],
            claims=claims[row["rewrite_id"]],
        )
        for row in rows
    ]


def _neighbour(root: Root, path: str | None) -> Picture | None:
    return None if path is None else thumbnail(root, path)


def _claims(root: Root, rows: Sequence[dict[str, Any]]) -> dict[str, list[Claim]]:
    """The claims behind each rewrite, also those that neither text took up."""
    found: dict[str, list[Claim]] = defaultdict(list)
    if not rows:
        return found
    wanted = ", ".join("'" + str(row["rewrite_id"]).replace("'", "''") + "'" for row in rows)
    for row in query(
        root,
        "SELECT DISTINCT r.id AS rewrite_id, c.number, c.text, c.verdict, c.evidence, "
        "len(c.answer_ids) AS answers FROM history.rewrites AS r "
        "JOIN history.claims AS c ON c.extraction_id = r.extraction_id "
        f"WHERE r.id IN ({wanted}) ORDER BY rewrite_id, c.number",
    ).to_pylist():
        found[row["rewrite_id"]].append(
            Claim(row["text"], row["verdict"], row["evidence"], row["answers"])
        )
    return found


def _lengths(root: Root) -> list[Lengths]:
    rows = query(
        root,
        " UNION ALL ".join(
            f"SELECT '{name}' AS name, len(regexp_extract_all({name}, '\\S+')) AS words, "
            f"count(*) AS n FROM preferences WHERE {name} IS NOT NULL GROUP BY words"
            for name in TEXTS
        ),
    ).to_pylist()
    return [
        Lengths(name, {row["words"]: row["n"] for row in rows if row["name"] == name})
        for name in TEXTS
    ]


def _stages(root: Root, recipe: dict[str, Any]) -> list[Stage]:
    rows = query(
        root,
        " UNION ALL ".join(
            f"SELECT '{name}' AS name, count(*) AS rows, "
            f"(SELECT count(*) FROM failures WHERE stage = '{name}') AS failed, "
            "coalesce(sum(attempts), 0)::BIGINT AS calls, "
            "coalesce(sum(prompt_tokens), 0)::BIGINT AS prompt_tokens, "
            "coalesce(sum(completion_tokens), 0)::BIGINT AS completion_tokens, "
            f"coalesce(sum(cost_usd), 0)::DOUBLE AS cost FROM {table}"
            for name, table in TABLES.items()
        ),
    ).to_pylist()
    found = {row["name"]: Stage(model=_model(row["name"], recipe), **row) for row in rows}
    return [found[name] for name in TABLES]


def _model(stage: str, recipe: dict[str, Any]) -> str:
    """The model that a stage's recipe names; "" for a stage without one."""
    if stage.startswith("embed_"):
        return str(recipe["embed"].get(f"{stage.removeprefix('embed_')}_model") or "")
    return str(recipe.get(stage, {}).get("model", ""))
