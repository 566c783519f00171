"""Losses over (image slot, response) log-probabilities; `get(name)` finds one.

A loss is one file in this folder with a tuple `OBJECTIVES`: it is found by being there.
"""

from __future__ import annotations

import importlib
import pkgutil
from difflib import get_close_matches
from functools import cache

from config.errors import RecipeError
from train.objectives.base import Combination, LogProbs, Objective

__all__ = ["Combination", "LogProbs", "Objective", "get", "names"]


@cache
def _known() -> dict[str, Objective]:
    known: dict[str, Objective] = {}
    for module in pkgutil.iter_modules(__path__):
        found = importlib.import_module(f"{__name__}.{module.name}")
        for objective in getattr(found, "OBJECTIVES", ()):
            if objective.name in known:
                raise ValueError(f"two objectives are named {objective.name!r}")
            known[objective.name] = objective
    return known


def names() -> tuple[str, ...]:
    """Every objective's name, sorted."""
    return tuple(sorted(_known()))


def get(name: str) -> Objective:
    """The objective of that name. Raises RecipeError with the nearest name for any other."""
    known = _known()
    if name in known:
        return known[name]
    near = get_close_matches(name, known, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise RecipeError(f"no objective {name!r}; there are {', '.join(sorted(known))}.{hint}")
