"""When a program that died is started again, and when no more. Pure: times are given."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class RestartPolicy:
    """Back-off that doubles from `first_s` to `longest_s`; more than `most` deaths within
    `window_s` end it. All in seconds."""

    first_s: float = 1.0
    longest_s: float = 60.0
    most: int = 5
    window_s: float = 900.0

    def delay(self, deaths: Sequence[float], now: float) -> float | None:
        """Seconds to wait before the next start; None: it has died too often, give up.

        deaths: when it died, the last of them just now.
        """
        recent = [time for time in deaths if now - time <= self.window_s]
        if len(recent) > self.most:
            return None
        return float(min(self.longest_s, self.first_s * 2.0 ** max(0, len(recent) - 1)))
