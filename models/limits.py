"""How fast an endpoint may be asked. Pure: the clock is an argument."""

from __future__ import annotations

BURST_S = 1.0  # how many seconds' worth may go out at once
MINUTE_S = 60.0


class Pacer:
    """Spaces amounts (requests, or tokens) so that they keep to a limit a minute.

    Virtual scheduling (GCRA): each amount moves the time at which the next may start. In any
    minute at most the limit, one second's burst and the newest amount go out. Nothing is reserved
    ahead, so that a new limit holds for whatever still waits.
    """

    def __init__(self, per_minute: float) -> None:
        self._seconds_each = MINUTE_S / per_minute
        self._free_at = float("-inf")

    def set(self, per_minute: float) -> None:
        self._seconds_each = MINUTE_S / per_minute

    def wait(self, now: float) -> float:
        """Seconds until the next amount may start."""
        return max(0.0, self._free_at - now)

    def take(self, amount: float, now: float) -> None:
        """Takes an amount that starts now."""
        self._free_at = max(self._free_at, now - BURST_S) + amount * self._seconds_each

    def correct(self, difference: float) -> None:
        """Gives back, or takes besides, what an estimate was off by."""
        self._free_at += difference * self._seconds_each


# A queue this much shorter than its limit lets calls grow again; between, they stay as they are.
SHORT = 0.5
SHRINK = 0.7
STEPS = 16  # so many looks at most bring the calls back to all there may be


def eased(now: int, most: int, waiting: float, queue_limit: int) -> int:
    """Calls at once after a look at the server's queue: less by a factor, more by steps."""
    if waiting > queue_limit:
        return max(1, int(now * SHRINK))
    if waiting <= queue_limit * SHORT:
        return min(most, now - (-most // STEPS))
    return now


def backoff(attempt: int, draw: float, base_s: float = 0.25, cap_s: float = 30.0) -> float:
    """Seconds before the next try: exponential with full jitter; `draw` is uniform in [0, 1)."""
    return draw * min(cap_s, base_s * 2.0 ** max(0, attempt - 1))
