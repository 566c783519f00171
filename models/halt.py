"""The end of all calls to one endpoint: said once, heard by every call that waits."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from config.errors import StageStopped, StorageError

Stop = StageStopped | StorageError


class Halt:
    def __init__(self) -> None:
        self._error: Stop | None = None
        self._event = asyncio.Event()
        self.listeners: list[Callable[[], None]] = []  # told once, as calls that wait must be

    @property
    def stopped(self) -> bool:
        return self._error is not None

    def stop(self, error: Stop) -> Stop:
        """The first error stands for all; gives it."""
        if self._error is None:
            self._error = error
            self._event.set()
            for listener in self.listeners:
                listener()
        return self._error

    def check(self) -> None:
        """Raises the error, if there is one, anew: each call has its own traceback."""
        if self._error is not None:
            raise type(self._error)(str(self._error))

    async def sleep(self, seconds: float) -> None:
        """Sleeps; raises as soon as there is an error."""
        try:
            await asyncio.wait_for(self._event.wait(), seconds)
        except TimeoutError:
            return
        self.check()
