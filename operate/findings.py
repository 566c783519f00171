"""What a check of `vispref doctor` says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Level = Literal["ok", "warn", "fail"]


@dataclass(frozen=True)
class Finding:
    """remedy: what to do about it; empty where nothing is to be done."""

    level: Level
    what: str
    found: str
    remedy: str = ""


def ok(what: str, found: str) -> Finding:
    return Finding("ok", what, found)


def warn(what: str, found: str, remedy: str) -> Finding:
    return Finding("warn", what, found, remedy)


def fail(what: str, found: str, remedy: str) -> Finding:
    return Finding("fail", what, found, remedy)
