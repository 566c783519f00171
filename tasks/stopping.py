"""A run that is cancelled ends in order: calls on the wire are answered and kept."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from config.errors import StageStopped
from stages.base import Work

MESSAGE = "the run was told to stop. What was done is kept; run it again to go on"


@contextmanager
def stopped_by_signal(work: Work) -> Iterator[None]:
    """SIGTERM, which is how Prefect cancels a run, stops the work between two calls.

    Prefect's own handler raises in whatever happens to run, an answer that was paid for included.
    It gets the signal once the work has stopped, and ends the run as it always does.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # signals reach the main thread alone
        return
    loop = asyncio.get_running_loop()
    before = signal.getsignal(signal.SIGTERM)
    told = threading.Event()

    def stop() -> None:
        told.set()
        work.stop(StageStopped(MESSAGE))

    loop.add_signal_handler(signal.SIGTERM, stop)
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGTERM)
        signal.signal(signal.SIGTERM, before)
        if told.is_set():
            os.kill(os.getpid(), signal.SIGTERM)
