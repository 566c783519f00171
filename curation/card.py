"""The dataset card: what a dataset is, how it came about and what it cost, as Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from curation.pairs import SENTENCES, Reason
from curation.splits import SIDES
from curation.summaries import (
    CardStats,
    Cosines,
    LengthBalance,
    Lengths,
    ModelUse,
    PromptUse,
    StageCost,
    length_balance,
    summarise_cosines,
)

__all__ = [
    "CardStats",
    "Cosines",
    "LengthBalance",
    "Lengths",
    "ModelUse",
    "PromptUse",
    "StageCost",
    "length_balance",
    "render_card",
    "summarise_cosines",
]

COLUMNS: dict[str, str] = {
    "row_id": "identity of (image, prompt)",
    "split": "train, validation or test",
    "prompt": "x",
    "image": "m, SHA-256 of the file",
    "image_path": "where m lies, relative to the dataset's root",
    "chosen": "y_w, from claims that agree with the caption of m",
    "rejected": "y_l, from claims that disagree with it",
    "neighbour": "m', the contrastive image",
    "neighbour_path": "where m' lies",
    "neighbour_chosen": "y'_w, the chosen answer of (m', x)",
    "neighbour_rejected": "the rejected answer of (m', x), where there is one; not filtered",
    "clip_cosine": "CLIP cosine of m and m'",
    "dino_cosine": "DINOv2 cosine of m and m', where both were embedded",
    "strategy": "how m' was found",
    "neighbour_id": "the match of m and m', for lineage",
    "rewrite_id": "the call that wrote chosen and rejected, for lineage",
    "neighbour_rewrite_id": "the same for the contrastive image",
    "external_ids": "the ids that the input gave this row",
}

QUERIES: tuple[tuple[str, str], ...] = (
    (
        "Rows and mean words by split, in this folder",
        "SELECT split, count(*) AS n,\n"
        "    round(avg(len(string_split(chosen, ' '))), 1) AS chosen_words,\n"
        "    round(avg(len(string_split(rejected, ' '))), 1) AS rejected_words\n"
        "FROM 'preferences/*.parquet' GROUP BY split ORDER BY split;",
    ),
    (
        "What was dropped and why, in this folder",
        "SELECT reason, count(*) AS n, any_value(detail) AS example\n"
        "FROM 'decisions/*.parquet' WHERE NOT kept GROUP BY reason ORDER BY n DESC;",
    ),
    (
        "Where a text comes from: its claims, the answers that made them, the caption "
        "(`catalog.duckdb` in the root)",
        "SELECT side, claim, verdict, evidence, k, answer, caption FROM lineage\n"
        "WHERE row_id = (SELECT min(row_id) FROM preferences) ORDER BY side, claim, k;",
    ),
)


def render_card(stats: CardStats) -> str:
    """The card in Markdown; the same numbers give the same text."""
    sections = (
        _head(stats),
        _selection(stats),
        _splits(stats),
        _lengths_section(stats),
        _contrast(stats),
        _provenance(stats),
        _costs(stats),
        _columns(),
        _queries(),
        _notices(),
    )
    return "\n\n".join(sections) + "\n"


def _head(stats: CardStats) -> str:
    return (
        f"# {stats.name}\n\n"
        "Symmetric vision-language preference pairs: for an image m and a prompt x a chosen "
        "answer y_w and a rejected answer y_l, and for a contrastive image m' the chosen answer "
        "y'_w to the same prompt. The rows serve SymMPO and, as (m, x, y_w, m', y'_w), JoMPO.\n\n"
        "Answers sampled from the reference model were split into atomic claims, each claim was "
        "compared with a detailed caption of the image, and the claims that agree were rewritten "
        "into the chosen answer, those that disagree into the rejected one.\n\n"
        + _table(
            ("", ""),
            [
                ("rows in", f"{stats.rows:,}"),
                ("rows kept", f"{stats.kept:,} ({_share(stats.kept, stats.rows)})"),
                ("of them with a contrastive image", f"{stats.contrasts:,}"),
                ("images in kept rows", f"{stats.images:,}"),
                ("dataset digest", f"`{stats.dataset_digest}`"),
                ("recipe digest", f"`{stats.recipe_digest}`"),
            ],
        )
    )


def _selection(stats: CardStats) -> str:
    drops = [
        (reason, f"{count:,}", _share(count, stats.rows), SENTENCES[Reason(reason)])
        for reason, count in _largest_first(stats.drops)
    ]
    refused = [(reason, f"{count:,}") for reason, count in _largest_first(stats.refused)]
    return (
        "## Rows dropped\n\nEvery row is counted once, under the first reason that holds.\n\n"
        + _table(("reason", "rows", "share", "meaning"), drops)
        + "\n\nInput records refused before that:\n\n"
        + _table(("reason", "records"), refused)
    )


def _splits(stats: CardStats) -> str:
    rows = [
        (
            side,
            f"{stats.splits.rows[side]:,}",
            f"{stats.splits.reached[side]:.1%}",
            f"{getattr(stats.shares, side):.1%}",
        )
        for side in SIDES
    ]
    notes = "".join(f"\n- {note}" for note in stats.splits.notes)
    return (
        "## Splits\n\nNo image, contrastive image or near duplicate stands on two sides. Linked "
        f"images stay together: {stats.splits.components:,} components, the largest with "
        f"{stats.splits.largest:.1%} of the rows.\n\n"
        + _table(("split", "rows", "reached", "asked"), rows)
        + (f"\n{notes}" if notes else "")
    )


def _lengths_section(stats: CardStats) -> str:
    title = "## Lengths in words\n\n"
    if stats.lengths is None:
        return title + "No rows."
    named = (("chosen", stats.lengths.chosen), ("rejected", stats.lengths.rejected))
    rows = [(n, f"{x.mean:.1f}", f"{x.median:g}", f"{x.p90}") for n, x in named]
    return (
        title
        + _table(("text", "mean", "median", "p90"), rows)
        + f"\n\nChosen is longer in {stats.lengths.longer:.1%} of the rows, as long in "
        f"{stats.lengths.equal:.1%}. Far from one half, length alone tells the two apart."
    )


def _contrast(stats: CardStats) -> str:
    given = ", ".join(f"{name} = {value:g}" for name, value in stats.thresholds.items())
    parts = [
        f"## Contrastive images\n\nStrategy: {stats.strategy}" + (f" ({given})." if given else ".")
    ]
    for found in stats.cosines:
        bins = [
            (f"{low:.2f} to {high:.2f}", f"{count:,}", _share(count, found.count))
            for low, high, count in found.bins
        ]
        parts.append(
            f"{found.encoder} cosine of {found.count:,} kept pairs: lowest {found.lowest:.3f}, "
            f"median {found.median:.3f}, highest {found.highest:.3f}.\n\n"
            + _table(("cosine", "pairs", "share"), bins)
        )
    return "\n\n".join(parts)


def _provenance(stats: CardStats) -> str:
    models = [(m.role, m.name, f"`{m.digest}`" if m.digest else "served") for m in stats.models]
    prompts = [(p.stage, p.name, f"`{p.digest}`") for p in stats.prompts]
    return (
        "## Models and prompts\n\n"
        + _table(("role", "model", "weights"), models)
        + "\n\n"
        + _table(("stage", "prompt", "digest"), prompts)
    )


def _costs(stats: CardStats) -> str:
    rows = [_cost_row(stage) for stage in stats.stages]
    tokens = sum(s.prompt_tokens + s.completion_tokens for s in stats.stages)
    dollars = sum(s.cost_usd for s in stats.stages)
    each = (
        f" A kept row took {tokens / stats.kept:,.0f} tokens and {_dollars(dollars / stats.kept)}."
        if stats.kept
        else ""
    )
    failures = [(stage, error, f"{count:,}") for stage, error, count in stats.failures]
    header = ("stage", "rows", "failed", "calls", "tokens in", "tokens out", "cost")
    return (
        "## Cost\n\n"
        + _table(header, rows)
        + f"\n\nIn all {tokens:,} tokens and {_dollars(dollars)}.{each}\n\n"
        + "Rows that failed and were not done since:\n\n"
        + _table(("stage", "error", "rows"), failures)
    )


def _cost_row(cost: StageCost) -> tuple[str, ...]:
    counts = (cost.rows, cost.failed, cost.calls, cost.prompt_tokens, cost.completion_tokens)
    return (cost.stage, *(f"{count:,}" for count in counts), _dollars(cost.cost_usd))


def _columns() -> str:
    rows = [(f"`{name}`", meaning) for name, meaning in COLUMNS.items()]
    return "## Columns of `preferences`\n\n" + _table(("column", "meaning"), rows)


def _queries() -> str:
    shown = [f"{title}:\n\n```sql\n{sql}\n```" for title, sql in QUERIES]
    return "## Queries with DuckDB\n\n" + "\n\n".join(shown)


def _notices() -> str:
    return (
        "## Licences and limits\n\n"
        "- The images keep their own licences; this card grants none. Check the source of each "
        "image before sharing it. The texts fall under the terms of the models that wrote them.\n"
        "- A claim is compared with a caption that a model wrote, not with the image: what the "
        "captioner misses or gets wrong is in the verdicts.\n"
        "- All texts are written by models and may be wrong, biased or unsuitable."
    )


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    if not rows:
        return "None."
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(map(_cell, line)) + " |" for line in lines)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _largest_first(counts: Mapping[str, int]) -> list[tuple[str, int]]:
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.1%}" if whole else "-"


def _dollars(amount: float) -> str:
    if amount == 0 or amount >= 1:
        return f"${amount:,.2f}"
    return f"${amount:.6f}" if amount >= 1e-6 else "less than $0.000001"
