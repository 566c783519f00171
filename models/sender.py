"""One request to an answer: paced, tried again, patient with a busy server, and loud.

A call waits for a slot and the endpoint's limits (`models.throttle`), and holds the slot only
while it is on the wire. What a reply means is decided in `models.verdicts`; whether there is a
server at all, in `models.outage`.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from config.errors import EndpointDown, RequestRejected, StageStopped
from config.settings import Endpoint
from models.halt import Halt, Stop
from models.limits import backoff
from models.outage import Outage
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
from models.shares import limits_of
from models.throttle import Throttle
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
        self.halt = Halt()
        self.stop = self.halt.stop
        self.throttle = Throttle(limits_of(endpoint), clock, self.halt)
        self.used = self.throttle.used
        self.outage = Outage(role, endpoint, transport, self.halt, clock)
        self._structured: str = endpoint.structured
        self._paused_until = 0.0
        self._successes = 0
        self._failures_in_row = self._timeouts_in_row = self._failed_alone = 0
        self._busy_since: float | None = None

    async def aclose(self) -> None:
        await self._transport.aclose()

    async def send(self, request: ChatRequest, tokens: int) -> Completion:
        """The completion of one request that may take so many tokens.

        Raises RowError where this request cannot be answered, StageStopped where none can.
        """
        successes, failed, busy, died = self._successes, 0, 0, 0
        while True:
            self.halt.check()
            await self.outage.check(request.model)
            await self._turn(tokens)
            structured, outages = self._structured, self.outage.ended
            try:
                body = wire_body(request, self.endpoint, self._images, structured)
                found = await self._once(body)
            finally:
                self.throttle.release()
            if isinstance(found, Completion):
                self._successes += 1
                self._failures_in_row = self._timeouts_in_row = self._failed_alone = 0
                self._busy_since = None
                return found
            self.used(-tokens)  # no answer, no tokens
            if await self._server_died(found, outages, request):
                died += 1  # no try: yet a request that is there whenever a server dies ...
                if died >= self.endpoint.max_tries:  # ... may be why it does
                    raise self._given_up(found, died, self._successes > successes)
                continue
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

    async def _turn(self, tokens: int) -> None:
        """Waits until a call may go on the wire, and takes its slot."""
        while True:
            await self._pause()
            await self.throttle.acquire(tokens)
            # While it waited, the server may have asked for a pause, or died, or this process
            # have been held up for so long that its share is another's.
            if self._paused_until <= self._clock() and self._may_ask():
                return
            self.throttle.give_back(tokens)
            self.halt.check()

    def _may_ask(self) -> bool:
        return self.outage.over.is_set() and self.throttle.slots.open and not self.halt.stopped

    async def _server_died(
        self, found: Reply | TransportFault, outages: int, request: ChatRequest
    ) -> bool:
        """Whether this call ended with its server, which serves again now."""
        if not isinstance(found, TransportFault) or not found.cut:
            return False
        if not await self.outage.passed(found, outages, request.model):
            return False
        self.stats.retries["server died"] += 1
        return True

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
    ) -> RequestRejected | Stop:
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
        self.outage.reached = True
        if reply.status != 200:
            return reply
        try:
            return error_in(reply.body) or parse_completion(reply.body)
        except ValueError as error:
            shown = self._said(reply.body, REPORTED)
            return TransportFault(f"HTTP 200 without a chat completion ({error}): {shown}")

    async def _pause(self) -> None:
        """Waits until the server may be asked again, and a little more: not all at once."""
        await self.outage.over.wait()
        self.halt.check()
        while (wait := self._paused_until - self._clock()) > 0:
            await self.halt.sleep(wait + backoff(1, self._draw()))

    async def _back_off(self, found: Reply | TransportFault, attempt: int, alive: bool) -> None:
        asked = retry_after(found) if isinstance(found, Reply) else None
        if asked is not None:  # the server speaks for all requests to it
            asked = min(asked, self.endpoint.busy_patience_s)
            self._paused_until = max(self._paused_until, self._clock() + asked)
        await self.halt.sleep(backoff(1 if alive else attempt, self._draw()))

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
            where += f"\nAsked for {request.model!r}; {await self.outage.served()}"
        error = final_error(reply, where, self.role, others_succeed=self._successes > 0)
        if isinstance(error, StageStopped):
            raise self.stop(error)
        if error is not None:
            raise error

    def _problem(self, found: Reply | TransportFault) -> str:
        if isinstance(found, TransportFault):
            return self.redacted(str(found))
        return f"HTTP {found.status}: {self._said(found.body, REPORTED)}"

    def _said(self, body: bytes, limit: int) -> str:
        return self.redacted(body.decode(errors="replace"), limit)

    def redacted(self, text: str, limit: int | None = None) -> str:
        """Servers echo keys; nothing we keep or say does."""
        return redacted(text, key_of(self.endpoint), limit)
