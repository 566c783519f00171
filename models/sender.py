"""One request to an answer: paced, tried again, patient with a busy server, and loud.

A call waits for the endpoint's limits, then for a slot, and holds the slot only while it is on
the wire. What a reply means is decided in `models.verdicts`.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import orjson

from config.errors import EndpointDown, RequestRejected, StageStopped, StorageError
from config.settings import Endpoint
from models.limits import Pacer, backoff
from models.replies import (
    SHOWN_ERROR,
    TOO_LONG,
    Completion,
    error_in,
    parse_completion,
    redacted,
    retry_after,
)
from models.requests import ChatRequest, ImageSource, wire_body
from models.transport import BodyTooLong, Reply, Transport, TransportFault, key_of
from models.verdicts import PASSED_OVER, WEAKER, final_error, format_unknown, is_busy

log = logging.getLogger("vispref.chat")

REPORTED = 300  # characters of a reply in an error
# So many requests that only ever got HTTP 500, with no success beside them, may be at fault
# themselves (an image that breaks the model); one more, and the server is.
ALONE = 2


@dataclass
class ClientStats:
    """What this client has done. `sent` counts requests on the wire, tries included."""

    sent: int = 0
    answers: int = 0
    cached: int = 0
    retries: Counter[str] = field(default_factory=Counter)
    in_flight: int = 0


class Sender:
    """Used on one event loop, for one endpoint."""

    def __init__(
        self,
        role: str,
        endpoint: Endpoint,
        transport: Transport,
        images: ImageSource,
        *,
        draw: Callable[[], float],
        clock: Callable[[], float],
    ) -> None:
        self.role, self.endpoint, self.stats = role, endpoint, ClientStats()
        self._transport, self._images = transport, images
        self._draw, self._clock = draw, clock
        self._slots = asyncio.Semaphore(endpoint.concurrency)
        limits = (endpoint.requests_per_minute, endpoint.tokens_per_minute)
        self._requests, self._tokens = (None if n is None else Pacer(n) for n in limits)
        self._structured: str = endpoint.structured
        self._paused_until = 0.0
        self._successes = 0
        self._failures_in_row = self._timeouts_in_row = self._failed_alone = 0
        self._busy_since: float | None = None
        self._down: StageStopped | StorageError | None = None
        self._down_event = asyncio.Event()

    async def aclose(self) -> None:
        await self._transport.aclose()

    def used(self, difference: int) -> None:
        """By how many tokens the estimate given to `send` was off."""
        if self._tokens is not None:
            self._tokens.correct(difference)

    async def send(self, request: ChatRequest, tokens: int) -> Completion:
        """The completion of one request that may take so many tokens.

        Raises RowError where this request cannot be answered, StageStopped where none can.
        """
        successes, failed, busy = self._successes, 0, 0
        while True:
            await self._gate(tokens)
            structured = self._structured
            found = await self._in_a_slot(
                wire_body(request, self.endpoint, self._images, structured)
            )
            if isinstance(found, Completion):
                self._successes += 1
                self._failures_in_row = self._timeouts_in_row = self._failed_alone = 0
                self._busy_since = None
                return found
            self.used(-tokens)  # no answer, no tokens
            if isinstance(found, Reply):
                if self._weakened(found, structured, request):
                    continue
                await self._refuse(found, request)
                if is_busy(found):  # says nothing against the request: costs it no try
                    busy += 1
                    self._check_busy(found, successes)
                    await self._back_off(found, busy, alive=False)
                    continue
            failed += 1
            self._count(found, failed)
            if failed >= self.endpoint.max_tries:
                raise self._given_up(found, failed, self._successes > successes)
            # While others succeed the server is alive and this request was unlucky: wait little.
            alive = self._failures_in_row < max(4, self.endpoint.concurrency // 4)
            await self._back_off(found, failed, alive)

    async def _in_a_slot(self, body: bytes) -> Completion | Reply | TransportFault:
        while True:
            async with self._slots:
                self._raise_if_down()
                if self._paused_until <= self._clock():
                    return await self._once(body)
            await self._pause()  # the server asked for it while this call waited for its slot

    def _check_busy(self, found: Reply, successes: int) -> None:
        """Raises where waiting for a busy server has no end."""
        self.stats.retries[f"HTTP {found.status}"] += 1
        now, patience = self._clock(), self.endpoint.busy_patience_s
        self._busy_since = now if self._busy_since is None else self._busy_since
        asked = retry_after(found) or 0.0
        said = f"{self.role} at {self.endpoint.base_url} is busy: {self._problem(found)}"
        if asked > patience or now - self._busy_since > patience:
            why = (
                f"it asks to wait {asked:g} s"
                if asked > patience
                else f"nothing was answered for {now - self._busy_since:.0f} s"
            )
            raise self.stop(
                EndpointDown(
                    f"{said}\n{why}, busy_patience_s is {patience:g}. Nothing done is lost; run "
                    "again later, or set requests_per_minute or a lower concurrency"
                )
            )
        if self._successes - successes > PASSED_OVER * self.endpoint.concurrency:
            raise RequestRejected(
                f"{said}; {self._successes - successes} other requests were answered meanwhile"
            )

    def _given_up(
        self, found: Reply | TransportFault, tries: int, others: bool
    ) -> RequestRejected | StageStopped | StorageError:
        message = (
            f"{self.role} at {self.endpoint.base_url}: {tries} tries failed, "
            f"last: {self._problem(found)}"
        )
        if others:
            return RequestRejected(f"{message}; others succeeded meanwhile", attempts=tries)
        self._failed_alone += 1
        crashed = isinstance(found, Reply) and found.status == 500
        if crashed and self._failed_alone <= ALONE:
            return RequestRejected(f"{message}; the server lives", attempts=tries)
        return self.stop(EndpointDown(f"{message}. Nothing done is lost; mend it, run again"))

    async def _once(self, body: bytes) -> Completion | Reply | TransportFault:
        self.stats.sent += 1
        self.stats.in_flight += 1
        try:
            reply = await self._transport.post("/chat/completions", body)
        except TransportFault as fault:
            return fault
        except BodyTooLong:  # it was paid for: kept as an answer, at its worst price
            return Completion("", TOO_LONG, "", None, None)
        finally:
            self.stats.in_flight -= 1
        if reply.status != 200:
            return reply
        try:
            return error_in(reply.body) or parse_completion(reply.body)
        except ValueError as error:
            shown = self._said(reply.body, REPORTED)
            return TransportFault(f"HTTP 200 without a chat completion ({error}): {shown}")

    async def _gate(self, tokens: int) -> None:
        """Waits for the endpoint's pause and limits. Raises when it is down."""
        self._raise_if_down()
        await self._pause()
        now = self._clock()
        wait = 0.0
        if self._requests is not None:
            wait = max(wait, self._requests.reserve(1, now))
        if self._tokens is not None:
            wait = max(wait, self._tokens.reserve(tokens, now))
        if wait > 0:
            await self._sleep(wait)

    async def _pause(self) -> None:
        """Waits until the server may be asked again, and a little more: not all at once."""
        while (wait := self._paused_until - self._clock()) > 0:
            await self._sleep(wait + backoff(1, self._draw()))

    async def _sleep(self, seconds: float) -> None:
        try:
            await asyncio.wait_for(self._down_event.wait(), seconds)
        except TimeoutError:
            return
        self._raise_if_down()

    async def _back_off(self, found: Reply | TransportFault, attempt: int, alive: bool) -> None:
        asked = retry_after(found) if isinstance(found, Reply) else None
        if asked is not None:  # the server speaks for all requests to it
            asked = min(asked, self.endpoint.busy_patience_s)
            self._paused_until = max(self._paused_until, self._clock() + asked)
        await self._sleep(backoff(1 if alive else attempt, self._draw()))

    def _count(self, found: Reply | TransportFault, attempt: int) -> None:
        name = f"HTTP {found.status}" if isinstance(found, Reply) else "transport"
        timed_out = isinstance(found, TransportFault) and found.timed_out
        self.stats.retries["time-out" if timed_out else name] += 1
        self._failures_in_row += 1
        self._timeouts_in_row = self._timeouts_in_row + 1 if timed_out else 0
        if timed_out and attempt > 1 and self._timeouts_in_row >= self.endpoint.max_tries:
            raise self.stop(
                EndpointDown(
                    f"{self.role} at {self.endpoint.base_url} hangs: {self._timeouts_in_row} "
                    f"requests in a row got no answer within {self.endpoint.timeout_s:g} s. "
                    "Nothing done is lost; mend it, or raise its timeout_s, and run again"
                )
            )

    def _weakened(self, reply: Reply, structured: str, request: ChatRequest) -> bool:
        """The server does not know the answer format: ask in a weaker one from now on."""
        if request.schema is None or structured not in WEAKER or not format_unknown(reply):
            return False
        if self._structured == structured:
            self._structured = WEAKER[structured]
            log.warning(
                "%s at %s takes no %s answers; asking for %s from now on",
                self.role, self.endpoint.base_url, structured, self._structured,
            )  # fmt: skip
        return True

    async def _refuse(self, reply: Reply, request: ChatRequest) -> None:
        """Raises for a reply that no retry will change."""
        said = self._said(reply.body, SHOWN_ERROR)
        where = f"{self.role} at {self.endpoint.base_url} answered HTTP {reply.status}: {said}"
        if reply.status == 404:
            where += f"\nAsked for {request.model!r}; {await self._served_models()}"
        error = final_error(reply, where, self.role, others_succeed=self._successes > 0)
        if isinstance(error, StageStopped):
            raise self.stop(error)
        if error is not None:
            raise error

    async def _served_models(self) -> str:
        try:
            reply = await self._transport.get("/models")
            names = [model["id"] for model in orjson.loads(reply.body)["data"]]
        except (TransportFault, BodyTooLong, ValueError, KeyError, TypeError):
            return "the server does not list its models"
        return f"the server serves {names}"

    def _problem(self, found: Reply | TransportFault) -> str:
        if isinstance(found, TransportFault):
            return self.redacted(str(found))
        return f"HTTP {found.status}: {self._said(found.body, REPORTED)}"

    def _said(self, body: bytes, limit: int) -> str:
        return self.redacted(body.decode(errors="replace"), limit)

    def redacted(self, text: str, limit: int | None = None) -> str:
        """Servers echo keys; nothing we keep or say does."""
        return redacted(text, key_of(self.endpoint), limit)

    def stop(self, error: StageStopped | StorageError) -> StageStopped | StorageError:
        if self._down is None:
            self._down = error
            self._down_event.set()
        return self._down

    def _raise_if_down(self) -> None:
        if self._down is not None:
            raise type(self._down)(str(self._down))
