"""What the stand-in server has served, for tests that count calls."""

from __future__ import annotations

import hashlib
from collections import Counter
from typing import Any

from miniature.protocol import ChatCall


class Tally:
    """Counts of chat calls. Used from the server's event loop alone."""

    def __init__(self) -> None:
        self._calls: Counter[str] = Counter()
        self._models: Counter[str] = Counter()
        self._statuses: Counter[str] = Counter()
        self._faults: Counter[str] = Counter()
        self._bodies: set[bytes] = set()
        self._images = 0
        self._prompt_tokens = 0
        self._completion_tokens = 0
        self._in_flight = 0
        self._most_in_flight = 0

    def begin(self, call: ChatCall, body: bytes) -> int:
        """Counts a call that was understood; answers its number, from 1."""
        self._calls[call.role] += 1
        self._models[call.model] += 1
        self._images += len(call.pictures)
        self._bodies.add(hashlib.blake2b(body, digest_size=16).digest())
        self._in_flight += 1
        self._most_in_flight = max(self._most_in_flight, self._in_flight)
        return self._calls.total()

    def end(self, status: int | str) -> None:
        self._in_flight -= 1
        self._statuses[str(status)] += 1

    def refused(self, status: int) -> None:
        """Counts a request that never became a call (wrong key, wrong body, unknown model)."""
        self._statuses[str(status)] += 1

    def fault(self, kind: str) -> None:
        self._faults[kind] += 1

    def tokens(self, usage: dict[str, Any]) -> None:
        self._prompt_tokens += usage["prompt_tokens"]
        self._completion_tokens += usage["completion_tokens"]

    def as_dict(self) -> dict[str, Any]:
        """`calls` counts understood calls, `distinct` their different bodies; the rest as named."""
        return {
            "calls": self._calls.total(),
            "distinct": len(self._bodies),
            "by_role": dict(self._calls),
            "by_model": dict(self._models),
            "by_status": dict(self._statuses),
            "faults": dict(self._faults),
            "images": self._images,
            "prompt_tokens": self._prompt_tokens,
            "completion_tokens": self._completion_tokens,
            "in_flight": self._in_flight,
            "most_in_flight": self._most_in_flight,
        }
