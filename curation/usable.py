"""Whether a dataset is worth training on."""

from __future__ import annotations


def why_unusable(rows: int, kept: int, *, min_rows: int, max_drop_rate: float) -> str | None:
    """The reason in one sentence, or None where the dataset may be trained on.

    rows: rows of the input; kept: of them in the dataset; max_drop_rate: share of rows, 0 to 1.
    """
    if kept < min_rows:
        return f"{kept:,} rows were kept, fewer than the {min_rows:,} asked for"
    dropped = (rows - kept) / rows if rows else 1.0
    if dropped > max_drop_rate:
        return (
            f"{dropped:.1%} of {rows:,} rows were dropped, more than the {max_drop_rate:.1%} "
            "allowed; `decisions` has the reason of each"
        )
    return None
