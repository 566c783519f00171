"""Calls at once: a semaphore whose size may change while calls wait."""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Callable


class Slots:
    """First come, first served. Shrinking lets the calls that have a slot end.

    None is given once the clock is past `until`, whoever was to set it later: a process that was
    held up may find itself there.
    """

    def __init__(self, limit: int, clock: Callable[[], float]) -> None:
        self.limit, self.in_use = limit, 0
        self.until = math.inf
        self._clock = clock
        self._waiting: deque[asyncio.Future[None]] = deque()

    @property
    def open(self) -> bool:
        return self._clock() < self.until

    def set(self, limit: int, until: float) -> None:
        self.limit, self.until = limit, until
        self._hand_on()

    async def acquire(self) -> None:
        if not self._waiting and self._free():
            self.in_use += 1
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():  # it was given the slot as it was cancelled
                self.release()
            raise

    def release(self) -> None:
        self.in_use -= 1
        self._hand_on()

    def wake_all(self) -> None:
        """For calls that find out, once they have a slot, that there is nothing to wait for."""
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                self.in_use += 1
                turn.set_result(None)

    def _free(self) -> bool:
        return self.in_use < self.limit and self.open

    def _hand_on(self) -> None:
        while self._waiting and self._free():
            turn = self._waiting.popleft()
            if not turn.done():
                self.in_use += 1
                turn.set_result(None)
