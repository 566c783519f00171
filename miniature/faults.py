"""Faults the stand-in server can be told to have, each one seen at a real endpoint.

A fault strikes with a probability (drawn from the seed and the call's number, so the same calls
fail again in the same order) or the next n calls that it applies to.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any

# Instead of an answer:
REFUSED = ("http_429", "http_429_plain", "http_500", "http_503")
BROKEN = ("reset", "hang", "truncated_body", "html")
# An answer of HTTP 200 with something wrong in it, or in how it comes:
ODD_CONTENT = ("truncated_json", "prose_around_json", "refusal", "empty", "null", "huge")
ODD_USAGE = ("bad_usage", "no_usage")
KINDS = (*REFUSED, *BROKEN, *ODD_CONTENT, *ODD_USAGE, "slow_bytes", "no_schema_support")

HUGE = 100_000  # characters of a "huge" answer
REFUSAL = "I'm sorry, but I can't help with that."


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault. Exactly one of `probability` (0 to 1) and `next` (a count of calls) is given.

    `role` limits it to captioner, reference or claims. `seconds` is the Retry-After of http_429
    and http_503, and how long slow_bytes takes in all. Raises ValueError.
    """

    kind: str
    probability: float | None = None
    next: int | None = None
    role: str | None = None
    seconds: float = 1.0

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"unknown fault {self.kind!r}; expected one of {', '.join(KINDS)}")
        if (self.probability is None) == (self.next is None):
            raise ValueError(f'fault {self.kind}: give either "probability" or "next"')
        if self.probability is not None and not 0 <= self.probability <= 1:
            raise ValueError(f"fault {self.kind}: probability {self.probability} is not in 0..1")
        if self.next is not None and self.next < 0:
            raise ValueError(f"fault {self.kind}: next {self.next} is negative")
        if self.role not in (None, "captioner", "reference", "claims"):
            raise ValueError(f"fault {self.kind}: unknown role {self.role!r}")
        if self.seconds < 0:
            raise ValueError(f"fault {self.kind}: seconds {self.seconds} is negative")


def parse_fault(given: str | Mapping[str, Any]) -> Fault:
    """A fault from its fields, or from text: "http_500=0.1" (probability), "reset:3" (the next 3).

    Raises ValueError.
    """
    if isinstance(given, str):
        kind, equals, probability = given.partition("=")
        if equals:
            return Fault(kind, probability=float(probability))
        kind, colon, count = given.partition(":")
        if colon:
            return Fault(kind, next=int(count))
        raise ValueError(f"fault {given!r}: expected KIND=PROBABILITY or KIND:COUNT")
    unknown = set(given) - {field.name for field in fields(Fault)}
    if unknown or "kind" not in given:
        raise ValueError(f"fault {dict(given)!r}: expected kind and probability or next")
    return Fault(**given)


class FaultPlan:
    """Which fault, if any, strikes each call: the first of the list that does."""

    def __init__(self, faults: Iterable[Fault] = (), seed: int = 0) -> None:
        self._faults = list(faults)
        self._left = [fault.next for fault in self._faults]
        self._seed = seed

    def pick(self, call: int, role: str, asks_schema: bool) -> Fault | None:
        """The fault of call number `call`; no_schema_support strikes only calls with a schema."""
        for index, fault in enumerate(self._faults):
            if fault.role not in (None, role):
                continue
            if fault.kind == "no_schema_support" and not asks_schema:
                continue
            if self._strikes(index, fault, call):
                return fault
        return None

    def _strikes(self, index: int, fault: Fault, call: int) -> bool:
        left = self._left[index]
        if left is not None:
            self._left[index] = max(left - 1, 0)
            return left > 0
        draw = random.Random(f"{self._seed}:{index}:{call}").random()
        return draw < (fault.probability or 0.0)


def spoil(fault: Fault | None, text: str) -> str | None:
    """The answer's text as the fault leaves it."""
    match fault.kind if fault else "":
        case "truncated_json":
            return text[: len(text) // 2]
        case "prose_around_json":
            return f"Sure! Here is the result:\n```json\n{text}\n```\nLet me know if it helps."
        case "refusal":
            return REFUSAL
        case "empty":
            return ""
        case "null":
            return None
        case "huge":
            return (text + " ") * (HUGE // (len(text) + 1) + 1)
    return text
