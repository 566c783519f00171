"""What became of each row of a batch: rows to store, a failure of its own, or the stage's end."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

import pyarrow as pa

from config.errors import FileMissing, InputMissing, RowError, UnexpectedError, VisprefError
from models.chat import spent_on
from stages.base import Outcome, Row, Work
from storage.schemas import TABLES

Result = Outcome | BaseException
UNSTORABLE = (pa.ArrowException, UnicodeError, OverflowError)


def settle(found: Sequence[Result]) -> tuple[list[Result], dict[str, pa.Table]]:
    """Every error that concerns one row made a RowError, and the outcomes' rows by table.

    An error that nobody foresaw fails its row, not the stage; so does a row that cannot be stored.
    """
    results = [_of_row(result) for result in found]
    try:
        return results, _tables(results)
    except UNSTORABLE:  # rare: only now is it looked for row by row
        results = [_storable_alone(result) for result in results]
        return results, _tables(results)


def _tables(results: Sequence[Result]) -> dict[str, pa.Table]:
    by_table: dict[str, list[Row]] = {}
    for result in results:
        if isinstance(result, Outcome):
            for table, rows in result.rows.items():
                by_table.setdefault(table, []).extend(rows)
    return {
        table: pa.Table.from_pylist(rows, schema=TABLES[table])
        for table, rows in by_table.items()
        if rows
    }


def _of_row(found: Result) -> Result:
    if isinstance(found, FileMissing):
        return InputMissing(f"{found}; ingest the input again, which stores the image anew")
    if isinstance(found, Exception) and not isinstance(found, VisprefError):
        return UnexpectedError(f"{type(found).__name__}: {found}")
    return found


def _storable_alone(found: Result) -> Result:
    try:
        _tables([found])
    except UNSTORABLE as error:
        assert isinstance(found, Outcome)
        return UnexpectedError(
            f"its rows cannot be stored: {error}",
            raw_text=found.answers[-1].text if found.answers else None,
            attempts=len(found.answers),
            spent=spent_on(found.answers),
        )
    return found


def failure_row(work: Work, stage: str, unit: Row, error: RowError) -> Row:
    """The row of `failures` for a unit (its key, unit and nonce)."""
    return {
        "stage": stage,
        "recipe": work.chain.of(stage),
        "key": unit["key"],
        "unit": unit["unit"],
        "error_class": type(error).__name__,
        "message": escaped(str(error)),
        "raw_text": None if error.raw_text is None else escaped(error.raw_text),
        "attempts": error.attempts,
        "nonce": unit["nonce"],
        "prompt_tokens": error.spent.prompt_tokens,
        "completion_tokens": error.spent.completion_tokens,
        "cost_usd": error.spent.cost_usd,
        "run_id": work.run_id,
        "failed_at": datetime.now(UTC),
    }


def escaped(text: str) -> str:
    """The text with half surrogate pairs, which UTF-8 cannot hold, written as escapes."""
    return text.encode("utf-8", "backslashreplace").decode()
