"""Every table's small parts made few, and what killed runs left removed.

Called under the root's lock. `datasets/` and `references/` are left alone: a dataset's files are
named, with their digests, by its manifest, and a reference's file is one.
"""

from __future__ import annotations

import re
from typing import Any

from config.errors import FileMissing
from storage import merging, parts
from storage.root import Root

DAY_S = 24 * 3600.0
# What `Root.put` writes before it renames.
TEMPORARY = re.compile(r"\..+\.\d+-\d+-[0-9a-f]{8}")


def compact(root: Root) -> list[dict[str, Any]]:
    """One line a table and recipe with more than one part: how many there were and are."""
    lines: list[dict[str, Any]] = []
    for folder in root.list("tables"):
        table = folder.rsplit("/", 1)[-1]
        for recipe in parts.recipes(root, table):
            found = merging.merge_small(root, table, recipe)
            if found.before > 1 or found.unreadable:
                lines.append(
                    {
                        "table": table,
                        "recipe": recipe,
                        "parts before": found.before,
                        "parts after": found.after,
                        "unreadable": found.unreadable,
                    }
                )
    return lines


def sweep(root: Root) -> dict[str, int]:
    """Ends merges that were cut short and removes what killed runs left; gives the counts.

    A temporary file is removed when it is a day old: training writes without the root's lock.
    """
    counts = {"merges ended": merging.finish(root), "work folders": 0, "temporary files": 0}
    for left in root.list("work"):
        root.remove(left)
        counts["work folders"] += 1
    for folder, names in root.folders():
        for name in names:
            path = f"{folder}/{name}" if folder else name
            staged = path.startswith("tables/") and name.endswith(merging.STAGED)
            if staged or (TEMPORARY.fullmatch(name) and _is_old(root, path)):
                root.remove(path)
                counts["temporary files"] += 1
    return counts


def _is_old(root: Root, path: str) -> bool:
    try:
        return root.age_s(path) > DAY_S
    except FileMissing:  # whoever wrote it has renamed it by now
        return False
