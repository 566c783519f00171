"""How fast an endpoint may be asked. Pure: the clock is an argument."""

from __future__ import annotations

BURST_S = 1.0  # how many seconds' worth may go out at once
MINUTE_S = 60.0


class Pacer:
    """Spaces amounts (requests, or tokens) so that they keep to a limit a minute.

    Virtual scheduling (GCRA): each amount moves the time at which the next may start. In any
    minute at most the limit, one second's burst and the newest amount go out.
    """

    def __init__(self, per_minute: float) -> None:
        self._seconds_each = MINUTE_S / per_minute
        self._free_at = float("-inf")

    def reserve(self, amount: float, now: float) -> float:
        """Takes an amount; gives the seconds to wait before it may start."""
        begin = max(self._free_at, now - BURST_S)
        self._free_at = begin + amount * self._seconds_each
        return max(0.0, begin - now)

    def correct(self, difference: float) -> None:
        """Gives back, or takes besides, what an estimate was off by."""
        self._free_at += difference * self._seconds_each


def backoff(attempt: int, draw: float, base_s: float = 0.25, cap_s: float = 30.0) -> float:
    """Seconds before the next try: exponential with full jitter; `draw` is uniform in [0, 1)."""
    return draw * min(cap_s, base_s * 2.0 ** max(0, attempt - 1))
