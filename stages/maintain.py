"""Looking after a root: what killed runs left removed, small parts merged, everything checked.

Removing and merging hold the root's lock, as a run does. Checking holds nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from config.errors import StorageError
from config.settings import Settings
from stages.compact import compact, sweep
from stages.run import new_run_id
from stages.verify import verify
from storage.catalog import CURRENT, write_catalog
from storage.lock import hold
from storage.root import Root
from storage.tables import Tables


def tidy(root: Root, *, merge: bool, wait: bool, say: Callable[[str], None]) -> dict[str, Any]:
    """Sweeps and, with `merge`, compacts the tables. Gives a receipt of JSON values: `swept`
    (counts) and `tables` (one line a table and recipe).

    Busy: with `wait`, says who holds the root and waits; without, raises RootBusy. Raises
    StorageError for a root that holds no run.
    """
    _check_built(root)
    with hold(root, new_run_id(), wait=wait, say=say):
        _ = root.id  # a root of another format is refused before anything is changed
        receipt: dict[str, Any] = {"swept": sweep(root), "tables": compact(root) if merge else []}
        write_catalog(root)
    return receipt


def check(root: Root, settings: Settings) -> dict[str, Any]:
    """Verifies all that lies under the root, and the response cache; see `stages.verify`.

    Raises StorageError for a root that holds no run.
    """
    _check_built(root)
    with Tables(root, settings.duckdb_memory, settings.scratch_dir) as tables:
        return verify(root, tables, settings.cache_dir)


def _check_built(root: Root) -> None:
    if not root.exists(CURRENT):
        raise StorageError(
            f"{root.url} holds no run yet; check the root, or start one with vispref build"
        )


def error_of(report: dict[str, Any]) -> StorageError:
    """What a command or a flow ends with when the report of a check has faults."""
    first = report["listed"][0]
    count = "1 fault was" if report["faults"] == 1 else f"{report['faults']:,} faults were"
    return StorageError(
        f"{count} found, the first of them: {first['kind']} "
        f"{first['path']}: {first['found']}. What to do: {first['do']}. Nothing was changed by "
        "the check."
    )
