"""Every answer ever paid for, by the content of its request. Shared by all runs and processes.

SQLite in write-ahead mode: an answer is committed before it is returned, so a killed process
loses none. A power failure may take the last few commits; they are then asked for again.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass, fields
from operator import attrgetter
from pathlib import Path
from typing import Any

from config.errors import StorageError

FILE = "responses.sqlite"
BUSY_S = 60.0
KEYS_AT_ONCE = 500


@dataclass(frozen=True, slots=True)
class StoredAnswer:
    """One paid answer. Holds no key, no header and no image."""

    key: str
    role: str
    text: str
    finish_reason: str | None
    served_model: str
    prompt_tokens: int
    completion_tokens: int
    cost_usd: float
    usage_estimated: bool
    payer: str


_COLUMNS = [field.name for field in fields(StoredAnswer)]
_values = attrgetter(*_COLUMNS)  # `astuple` copies every value, at many times the cost
_ONE = f"SELECT {', '.join(_COLUMNS)} FROM answers WHERE key = ?"
_SCHEMA = """
CREATE TABLE IF NOT EXISTS answers (
    key TEXT PRIMARY KEY, role TEXT NOT NULL, text TEXT NOT NULL, finish_reason TEXT,
    served_model TEXT NOT NULL, prompt_tokens INTEGER NOT NULL, completion_tokens INTEGER NOT NULL,
    cost_usd REAL NOT NULL, usage_estimated INTEGER NOT NULL, payer TEXT NOT NULL,
    created TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now'))
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS spent (
    payer TEXT PRIMARY KEY, dollars REAL NOT NULL, tokens INTEGER NOT NULL
) WITHOUT ROWID;
"""


def _answer(row: tuple[Any, ...]) -> StoredAnswer:
    return StoredAnswer(*row[:8], bool(row[8]), row[9])


def check_cache(folder: Path) -> tuple[int, str | None]:
    """How many answers a cache holds, and what is wrong with its file; none where there is none.

    Opens it for reading alone, so that a damaged file is not made worse.
    """
    path = Path(folder) / FILE
    if not path.exists():
        return 0, None
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as found:
            told = "; ".join(row[0] for row in found.execute("PRAGMA quick_check(5)"))
            if told != "ok":
                return 0, told
            return int(found.execute("SELECT count(*) FROM answers").fetchone()[0]), None
    except sqlite3.Error as error:
        return 0, str(error)


class ResponseCache:
    """The cache in one folder. Used from one thread; other processes may use the same folder."""

    def __init__(self, folder: Path) -> None:
        self.path = Path(folder) / FILE
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._connection = sqlite3.connect(
                self.path, timeout=BUSY_S, isolation_level=None, check_same_thread=False
            )
            self._connection.execute("PRAGMA journal_mode = WAL")
            self._connection.execute("PRAGMA synchronous = NORMAL")
            self._connection.executescript(_SCHEMA)
        except (sqlite3.Error, OSError) as error:
            raise self._explained(error) from error

    def close(self) -> None:
        self._connection.close()

    def get(self, key: str) -> StoredAnswer | None:
        try:
            row = self._connection.execute(_ONE, (key,)).fetchone()
        except sqlite3.Error as error:
            raise self._explained(error) from error
        return None if row is None else _answer(row)

    def get_many(self, keys: Iterable[str]) -> dict[str, StoredAnswer]:
        """The answers that are there, by key."""
        wanted = list(keys)
        found: dict[str, StoredAnswer] = {}
        try:
            for start in range(0, len(wanted), KEYS_AT_ONCE):
                some = wanted[start : start + KEYS_AT_ONCE]
                rows = self._connection.execute(
                    f"SELECT {', '.join(_COLUMNS)} FROM answers "
                    f"WHERE key IN ({', '.join('?' * len(some))})",
                    some,
                )
                for row in rows:
                    found[row[0]] = _answer(row)
        except sqlite3.Error as error:
            raise self._explained(error) from error
        return found

    def put(self, answer: StoredAnswer) -> None:
        """Commits one paid answer and what its payer has spent. Raises StorageError.

        A second answer to the same request is paid for but not kept: the first one stands.
        """
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            self._connection.execute(
                f"INSERT OR IGNORE INTO answers ({', '.join(_COLUMNS)}) "
                f"VALUES ({', '.join('?' * len(_COLUMNS))})",
                _values(answer),
            )
            self._connection.execute(
                "INSERT INTO spent VALUES (?, ?, ?) ON CONFLICT (payer) DO UPDATE SET "
                "dollars = dollars + excluded.dollars, tokens = tokens + excluded.tokens",
                (answer.payer, answer.cost_usd, answer.prompt_tokens + answer.completion_tokens),
            )
            self._connection.execute("COMMIT")
        except sqlite3.Error as error:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            raise self._explained(error) from error

    def spent(self, payer: str) -> tuple[float, int]:
        """Dollars and tokens that one payer has spent, over all its runs."""
        try:
            row = self._connection.execute(
                "SELECT dollars, tokens FROM spent WHERE payer = ?", (payer,)
            ).fetchone()
        except sqlite3.Error as error:
            raise self._explained(error) from error
        return (0.0, 0) if row is None else (float(row[0]), int(row[1]))

    def _explained(self, error: Exception) -> StorageError:
        return StorageError(
            f"the response cache {self.path} cannot be used: {error}. Free space or mend the file "
            "(sqlite3 FILE .recover), or set VISPREF_CACHE_DIR to another folder; answers kept in "
            "the dataset's tables are not affected"
        )
