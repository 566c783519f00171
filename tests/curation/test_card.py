from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from config.recipe import Split
from curation.card import (
    COLUMNS,
    QUERIES,
    CardStats,
    Lengths,
    ModelUse,
    PromptUse,
    StageCost,
    length_balance,
    render_card,
    summarise_cosines,
)
from curation.pairs import SENTENCES, Reason
from curation.splits import assign_splits
from storage.catalog import LINEAGE
from storage.schemas import DECISIONS, PREFERENCES, TABLES

SHARES = Split(train=0.5, validation=0.5, test=0.0)
TEXTS = [("A red mug.", "A cup."), ("A mug.", "A blue cup."), ("One bowl.", "Two bowls.")]


def make_stats() -> CardStats:
    return CardStats(
        name="tiny",
        dataset_digest="d" * 32,
        recipe_digest="e" * 32,
        strategy="nearest",
        thresholds={"near_duplicate": 0.99},
        rows=8,
        kept=4,
        contrasts=3,
        images=7,
        refused={"truncated": 2, "no_prompt": 5},
        drops={"no_negative_claim": 1, "length_ratio": 3},
        shares=SHARES,
        splits=assign_splits([("a", "b"), ("a", None), ("b", None), ("c", None)], [], SHARES, 0),
        lengths=length_balance(TEXTS),
        cosines=[summarise_cosines("CLIP", [0.81, 0.84, 0.95])],
        models=[ModelUse("CLIP", "a/clip", "f" * 32), ModelUse("captioner", "a|b\n/vlm")],
        prompts=[PromptUse("extract", "extract.txt", "a" * 32)],
        stages=[
            StageCost("caption", 7, 1, 8, 1000, 500, 0.5),
            StageCost("extract", 6, 0, 6, 2000, 500, 1.5),
        ],
        failures=[("caption", "EmptyAnswer", 1)],
    )


def test_the_card_gives_the_numbers() -> None:
    card = render_card(make_stats())
    for line in (
        "# tiny",
        "| rows kept | 4 (50.0%) |",
        "| of them with a contrastive image | 3 |",
        "| dataset digest | `" + "d" * 32 + "` |",
        "| chosen | 2.3 | 2 | 3 |",
        "Chosen is longer in 33.3% of the rows, as long in 33.3%.",
        "Strategy: nearest (near_duplicate = 0.99).",
        "CLIP cosine of 3 kept pairs: lowest 0.810, median 0.840, highest 0.950.",
        "| 0.80 to 0.85 | 2 | 66.7% |",
        "| 0.95 to 1.00 | 1 | 33.3% |",
        "| CLIP | a/clip | `" + "f" * 32 + "` |",
        "| captioner | a\\|b /vlm | served |",
        "| extract | extract.txt | `" + "a" * 32 + "` |",
        "| caption | 7 | 1 | 8 | 1,000 | 500 | $0.500000 |",
        "In all 4,000 tokens and $2.00. A kept row took 1,000 tokens and $0.500000.",
        "| caption | EmptyAnswer | 1 |",
    ):
        assert line in card
    assert card == render_card(make_stats())
    assert "images keep their own licences" in card


def test_drops_stand_with_their_meaning_the_most_frequent_first() -> None:
    card = render_card(make_stats())
    ratio = f"| length_ratio | 3 | 37.5% | {SENTENCES[Reason.LENGTH_RATIO]} |"
    claim = f"| no_negative_claim | 1 | 12.5% | {SENTENCES[Reason.NO_NEGATIVE_CLAIM]} |"
    assert f"{ratio}\n{claim}" in card
    assert "| no_prompt | 5 |\n| truncated | 2 |" in card


def test_the_splits_say_what_was_asked_and_reached() -> None:
    stats = make_stats()
    card = render_card(stats)
    for side in ("train", "validation", "test"):
        rows, reached = stats.splits.rows[side], stats.splits.reached[side]
        assert f"| {side} | {rows} | {reached:.1%} | {getattr(SHARES, side):.1%} |" in card
    assert "2 components, the largest with 75.0% of the rows" in card
    assert stats.splits.notes
    assert all(f"\n- {note}" in card for note in stats.splits.notes)


def test_every_table_has_the_same_number_of_cells_in_every_line() -> None:
    for block in render_card(make_stats()).split("\n\n"):
        if block.startswith("|"):
            assert len({len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}) == 1


def test_a_dataset_without_rows_has_a_card() -> None:
    empty = replace(
        make_stats(),
        rows=0,
        kept=0,
        contrasts=0,
        drops={},
        refused={},
        splits=assign_splits([], [], SHARES, 0),
        lengths=None,
        cosines=[],
        stages=[],
        failures=[],
    )
    card = render_card(empty)
    assert "| rows kept | 0 (-) |" in card
    assert "## Lengths in words\n\nNo rows." in card
    assert "In all 0 tokens and $0.00.\n" in card


def test_the_columns_are_those_of_the_dataset() -> None:
    assert list(COLUMNS) == PREFERENCES.names


def test_lengths_by_hand() -> None:
    """Chosen 1..10 words: mean 5.5, median 5.5, p90 = the 9th. Rejected always 5 words."""
    pairs = [("w " * n, "v " * 5) for n in range(1, 11)]
    balance = length_balance(pairs)
    assert balance.chosen == Lengths(5.5, 5.5, 9)
    assert balance.rejected == Lengths(5.0, 5.0, 5)
    assert (balance.longer, balance.equal) == (0.5, 0.1)


def test_lengths_of_nothing_are_an_error() -> None:
    with pytest.raises(ValueError, match="no rows"):
        length_balance([])


@given(st.lists(st.floats(-1, 1), min_size=1))
def test_every_cosine_is_in_one_bin(values: list[float]) -> None:
    found = summarise_cosines("CLIP", values)
    assert sum(count for _, _, count in found.bins) == found.count == len(values)
    assert found.lowest <= found.median <= found.highest
    low, high = found.bins[0][0], found.bins[-1][1]
    assert low - 1e-5 <= found.lowest
    assert found.highest <= high + 1e-5


@pytest.mark.parametrize(
    ("value", "bin_"),
    [
        (0.95, (0.95, 1.0)),
        (float(np.float32(0.95)), (0.95, 1.0)),
        (float(np.float32(0.6)), (0.6, 0.65)),
        (1.0, (0.95, 1.0)),
        (-1.0, (-1.0, -0.95)),
        (-0.01, (-0.05, 0.0)),
    ],
)
def test_a_bin_holds_its_lower_edge(value: float, bin_: tuple[float, float]) -> None:
    assert summarise_cosines("CLIP", [value]).bins == ((*bin_, 1),)


def test_cosines_of_nothing_are_an_error() -> None:
    with pytest.raises(ValueError, match="no DINOv2 cosines"):
        summarise_cosines("DINOv2", [])


def test_the_queries_in_the_card_run_on_a_dataset(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, schema, rows in (
        (
            "preferences",
            PREFERENCES,
            [
                {"row_id": "r1", "split": "train", "chosen": "A red mug.", "rejected": "A cup."},
                {"row_id": "r2", "split": "train", "chosen": "A mug.", "rejected": "A cup."},
            ],
        ),
        (
            "decisions",
            DECISIONS,
            [
                {"row_id": "r1", "kept": True},
                {"row_id": "r3", "kept": False, "reason": "too_long", "detail": "401 words"},
                {"row_id": "r4", "kept": False, "reason": "too_long", "detail": "401 words"},
            ],
        ),
    ):
        (tmp_path / name).mkdir()
        filled = [{**dict.fromkeys(schema.names), **row} for row in rows]
        pq.write_table(pa.Table.from_pylist(filled, schema=schema), tmp_path / name / "a.parquet")
    monkeypatch.chdir(tmp_path)
    shown = re.findall(r"```sql\n(.*?)\n```", render_card(make_stats()), re.DOTALL)
    assert shown == [sql for _, sql in QUERIES]
    with duckdb.connect() as connection:
        connection.execute("CREATE VIEW preferences AS FROM 'preferences/*.parquet'")
        connection.execute("CREATE SCHEMA history")
        for name in ("rewrites", "claims", "extractions", "captions", "answers"):
            connection.register("empty", TABLES[name].empty_table())
            connection.execute(f"CREATE TABLE history.{name} AS FROM empty")
        connection.execute(f"CREATE VIEW lineage AS {LINEAGE}")
        answers = [connection.execute(sql).fetchall() for sql in shown]
    assert answers == [[("train", 2, 2.5, 2.0)], [("too_long", 2, "401 words")], []]
