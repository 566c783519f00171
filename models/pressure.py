"""Keeps a vLLM server's queue short: its metrics say how many requests wait there."""

from __future__ import annotations

import asyncio
import logging

from config.settings import Endpoint
from models.limits import eased
from models.throttle import Throttle
from models.transport import BodyTooLong, Reply, Transport, TransportFault
from models.verdicts import queue_length

log = logging.getLogger("vispref.chat")

LOOK_S = 2.0
ANSWER_S = 5.0  # metrics are answered at once; a look that is not is left out


async def keep_queue_short(
    who: str, endpoint: Endpoint, transport: Transport, throttle: Throttle
) -> None:
    """Runs until it is cancelled. A server without the metric is asked once and left alone."""
    while True:
        reply = await _metrics(endpoint, transport) if throttle.slots.in_use else None
        if reply is not None and reply.status < 500:
            waiting = queue_length(reply.body) if reply.status == 200 else None
            if waiting is None:
                throttle.ease(throttle.limits.concurrency)
                return
            _ease(who, throttle, waiting, endpoint.queue_limit)
        await asyncio.sleep(LOOK_S)


async def _metrics(endpoint: Endpoint, transport: Transport) -> Reply | None:
    """None where there is no reply this time."""
    url = str(endpoint.base_url).rstrip("/").removesuffix("/v1") + "/metrics"
    try:
        async with asyncio.timeout(ANSWER_S):
            return await transport.get(url)
    except (TransportFault, TimeoutError):
        return None
    except BodyTooLong:
        return Reply(200, {}, b"")


def _ease(who: str, throttle: Throttle, waiting: float, queue_limit: int) -> None:
    before, share = throttle.slots.limit, throttle.share
    if before == 0:  # it waits for its turn and has no part in the queue
        return
    at_once = eased(before, share, waiting, queue_limit)
    if before == share and at_once < share:
        log.info("%s: %.0f requests wait there; %d calls at once now", who, waiting, at_once)
    throttle.ease(throttle.limits.concurrency if at_once >= share else at_once)
