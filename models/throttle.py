"""How fast this process may ask one endpoint: calls at once, requests and tokens a minute.

Its share among the processes that call the endpoint, and the server's own queue, change it while
calls wait.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable

from models.halt import Halt
from models.limits import Pacer
from models.shares import Limits
from models.slots import Slots


class Throttle:
    def __init__(self, limits: Limits, clock: Callable[[], float], halt: Halt) -> None:
        self.limits = limits
        self.share = self.eased = limits.concurrency
        self.slots = Slots(limits.concurrency, clock)
        self._until = math.inf
        self._clock, self._halt = clock, halt
        halt.listeners.append(self.slots.wake_all)
        self._requests = _pacer(limits.requests_per_minute)
        self._tokens = _pacer(limits.tokens_per_minute)
        self._line = asyncio.Lock()

    def give(self, share: Limits, until: float) -> None:
        """This process's share from now on; no call starts once the clock is past `until`."""
        self.share, self._until = share.concurrency, until
        self._requests = _repaced(self._requests, share.requests_per_minute)
        self._tokens = _repaced(self._tokens, share.tokens_per_minute)
        self._set()

    def ease(self, at_once: int) -> None:
        """No more calls at once than this, whatever the share."""
        self.eased = at_once
        self._set()

    async def acquire(self, tokens: int) -> None:
        """Waits for a slot, and holds it. With a limit a minute, one call at a time also waits
        for its start there: what is behind it has taken nothing that a new limit would not see.

        After a halt no call waits here: it is let through, or raises.
        """
        self._halt.check()
        if self._requests is None and self._tokens is None:
            await self.slots.acquire()
            return
        async with self._line:
            self._halt.check()
            await self.slots.acquire()
            try:
                while (wait := self._wait()) > 0:
                    await self._halt.sleep(wait)
            except BaseException:
                self.slots.release()
                raise
            self._take(tokens)

    def release(self) -> None:
        self.slots.release()

    def give_back(self, tokens: int) -> None:
        """After `acquire`, where nothing was sent."""
        self.slots.release()
        if self._requests is not None:
            self._requests.correct(-1)
        self.used(-tokens)

    def used(self, difference: int) -> None:
        """By how many tokens the estimate was off."""
        if self._tokens is not None:
            self._tokens.correct(difference)

    def _set(self) -> None:
        self.slots.set(min(self.share, self.eased), self._until)

    def _wait(self) -> float:
        now = self._clock()
        pacers = [pacer for pacer in (self._requests, self._tokens) if pacer is not None]
        return max((pacer.wait(now) for pacer in pacers), default=0.0)

    def _take(self, tokens: int) -> None:
        now = self._clock()
        for pacer, amount in ((self._requests, 1), (self._tokens, tokens)):
            if pacer is not None:
                pacer.take(amount, now)


def _pacer(per_minute: float | None) -> Pacer | None:
    return None if per_minute is None else Pacer(per_minute)


def _repaced(pacer: Pacer | None, per_minute: float | None) -> Pacer | None:
    if pacer is None or per_minute is None:
        return _pacer(per_minute)
    pacer.set(per_minute)
    return pacer
