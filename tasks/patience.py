"""What is only shown may be lost: a Prefect server that is away costs a run nothing."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

import httpx
from prefect.exceptions import PrefectHTTPStatusError

log = logging.getLogger("vispref.artifacts")
Made = TypeVar("Made")

PATIENCE_S = 120.0  # about as long as Prefect itself waits to tell how a run ended
POLL_S = 2.0
LOST = "an artifact was not recorded, because Prefect's server is away: %s"


def is_away(error: Exception) -> bool:
    """Whether the server is to blame, and not what it was asked for."""
    if isinstance(error, PrefectHTTPStatusError):
        return error.response.status_code >= 500
    return isinstance(error, httpx.TransportError)


async def shown(make: Callable[[], Awaitable[Made]], patience_s: float = PATIENCE_S) -> Made | None:
    """What `make` gives, asked again while the server is away; None when it stays so."""
    deadline = time.monotonic() + patience_s
    while True:
        try:
            return await make()
        except (PrefectHTTPStatusError, httpx.TransportError) as error:
            if not is_away(error):
                raise
            if time.monotonic() >= deadline:
                log.warning(LOST, error)
                return None
        await asyncio.sleep(POLL_S)


def shown_here(make: Callable[[], Made], patience_s: float = PATIENCE_S) -> Made | None:
    """`shown` without an event loop."""
    deadline = time.monotonic() + patience_s
    while True:
        try:
            return make()
        except (PrefectHTTPStatusError, httpx.TransportError) as error:
            if not is_away(error):
                raise
            if time.monotonic() >= deadline:
                log.warning(LOST, error)
                return None
        time.sleep(POLL_S)
