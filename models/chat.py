"""The client of one OpenAI-compatible endpoint: cached, paced, budgeted, patient, and loud.

An answer is committed to the response cache before anyone sees it. A call waits for the budget,
then for the endpoint's limits, then for a slot; it holds the slot only while it is on the wire.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import orjson

from config.errors import EndpointDown, RequestRejected, StageStopped, StorageError
from config.settings import Endpoint
from models.budget import Amount, BudgetGuard
from models.estimates import Estimates
from models.limits import Pacer, backoff
from models.replies import (
    DECLINED,
    SHOWN_ERROR,
    TOO_LONG,
    ChatAnswer,
    Completion,
    answer_of,
    error_in,
    parse_completion,
    redacted,
    retry_after,
    sane,
    spent_on,
)
from models.requests import ChatRequest, ImagePart, ImageSource, Message, wire_body
from models.transport import (
    BodyTooLong,
    Reply,
    TransportFault,
    TransportName,
    key_of,
    make_transport,
)
from models.verdicts import PASSED_OVER, WEAKER, final_error, format_unknown, is_busy
from storage.responses import ResponseCache, StoredAnswer

__all__ = [
    "DECLINED",
    "ChatAnswer",
    "ChatClient",
    "ChatRequest",
    "ImagePart",
    "Message",
    "spent_on",
]

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


class ChatClient:
    """Used on one event loop. Raises RowError for a row, StageStopped when nothing can go on."""

    def __init__(
        self,
        role: str,
        endpoint: Endpoint,
        *,
        cache: ResponseCache,
        budget: BudgetGuard,
        images: ImageSource,
        payer: str,
        transport: TransportName | None = None,
        draw: Callable[[], float] = random.random,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.role, self.endpoint, self.stats = role, endpoint, ClientStats()
        self._cache, self._budget, self._images, self._payer = cache, budget, images, payer
        self._transport = make_transport(transport or endpoint.transport, endpoint)
        self._draw, self._clock = draw, clock
        self._slots = asyncio.Semaphore(endpoint.concurrency)
        limits = (endpoint.requests_per_minute, endpoint.tokens_per_minute)
        self._requests, self._tokens = (None if n is None else Pacer(n) for n in limits)
        self._structured: str = endpoint.structured
        self._asked: dict[str, asyncio.Future[ChatAnswer]] = {}
        self._paused_until = 0.0
        self._successes = 0
        self._failures_in_row = self._timeouts_in_row = self._failed_alone = 0
        self._busy_since: float | None = None
        self._down: StageStopped | StorageError | None = None
        self._down_event = asyncio.Event()
        self._estimates = Estimates(endpoint)
        self._first_image = asyncio.Lock()

    async def aclose(self) -> None:
        await self._transport.aclose()

    def cached(self, requests: list[ChatRequest]) -> dict[str, ChatAnswer]:
        """The answers that are on disk already, by request key: many in one look."""
        found = self._cache.get_many(request.key for request in requests)
        return {key: answer_of(stored, cached=True) for key, stored in found.items()}

    async def ask(self, request: ChatRequest) -> ChatAnswer:
        """The answer to a request, from the cache or paid for. Equal requests are sent once."""
        stored = self._cache.get(request.key)
        if stored is not None:
            self.stats.cached += 1
            return sane(answer_of(stored, cached=True))
        while (asked := self._asked.get(request.key)) is not None:
            try:
                answer = await asyncio.shield(asked)
            except asyncio.CancelledError:
                if not asked.cancelled() or cancelled():
                    raise
                continue  # the one who paid was cancelled, this call was not: it pays
            return sane(replace(answer, cached=True))  # paid by the other
        future: asyncio.Future[ChatAnswer] = asyncio.get_running_loop().create_future()
        self._asked[request.key] = future
        try:
            answer = await self._pay(request)
        except BaseException as error:
            if isinstance(error, asyncio.CancelledError):
                future.cancel()
            else:
                future.set_exception(error)
                future.exception()  # nobody else may be waiting: mark it as seen
            raise
        finally:
            del self._asked[request.key]
        future.set_result(answer)
        return sane(answer)

    async def _pay(self, request: ChatRequest) -> ChatAnswer:
        if self._budget.limited and request.images and not self._estimates.images_seen:
            async with self._first_image:  # what an image costs is learnt from one call, not many
                return await self._pay_now(request)
        return await self._pay_now(request)

    async def _pay_now(self, request: ChatRequest) -> ChatAnswer:
        prompt_tokens = self._estimates.worst(request)
        worst = self._amount(prompt_tokens, request.max_tokens)
        likely = self._estimates.likely(request) + request.max_tokens
        await self._budget.reserve(worst)
        actual: Amount | None = None
        try:
            reply = await self._send(request, likely)
            stored = self._stored(request, reply, prompt_tokens)
            actual = Amount(stored.cost_usd, stored.prompt_tokens + stored.completion_tokens)
            try:
                self._cache.put(stored)
            except StorageError as error:  # whatever else is asked would be paid for and lost too
                self._stop(error)
                raise
        finally:
            await self._budget.settle(worst, actual)
        self._estimates.learn(request, None if stored.usage_estimated else stored.prompt_tokens)
        if self._tokens is not None:
            self._tokens.correct(actual.tokens - likely)
        self.stats.answers += 1
        return answer_of(stored, cached=False)

    def _amount(self, prompt_tokens: int, completion_tokens: int) -> Amount:
        e = self.endpoint
        dollars = (prompt_tokens * e.price_in + completion_tokens * e.price_out) / 1e6
        return Amount(dollars, prompt_tokens + completion_tokens)

    def _stored(self, request: ChatRequest, reply: Completion, guess: int) -> StoredAnswer:
        """The answer as it is kept. Without usage the worst case is charged, and marked."""
        prompt, completion = reply.prompt_tokens, reply.completion_tokens
        estimated = prompt is None or completion is None
        prompt = guess if prompt is None else prompt
        completion = request.max_tokens if completion is None else completion
        return StoredAnswer(
            request.key, self.role, self._redacted(reply.text), reply.finish_reason,
            self._redacted(reply.model),
            prompt, completion, self._amount(prompt, completion).dollars, estimated, self._payer,
        )  # fmt: skip

    async def _send(self, request: ChatRequest, tokens: int) -> Completion:
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
            if self._tokens is not None:
                self._tokens.correct(-tokens)  # no answer, no tokens
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
            raise self._stop(
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
        return self._stop(EndpointDown(f"{message}. Nothing done is lost; mend it, run again"))

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
            self._paused_until = max(self._paused_until, self._clock() + asked)
        await self._sleep(backoff(1 if alive else attempt, self._draw()))

    def _count(self, found: Reply | TransportFault, attempt: int) -> None:
        name = f"HTTP {found.status}" if isinstance(found, Reply) else "transport"
        timed_out = isinstance(found, TransportFault) and found.timed_out
        self.stats.retries["time-out" if timed_out else name] += 1
        self._failures_in_row += 1
        self._timeouts_in_row = self._timeouts_in_row + 1 if timed_out else 0
        if timed_out and attempt > 1 and self._timeouts_in_row >= self.endpoint.max_tries:
            raise self._stop(
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
            raise self._stop(error)
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
            return self._redacted(str(found))
        return f"HTTP {found.status}: {self._said(found.body, REPORTED)}"

    def _said(self, body: bytes, limit: int) -> str:
        return self._redacted(body.decode(errors="replace"), limit)

    def _redacted(self, text: str, limit: int | None = None) -> str:
        """Servers echo keys; nothing we keep or say does."""
        return redacted(text, key_of(self.endpoint), limit)

    def _stop(self, error: StageStopped | StorageError) -> StageStopped | StorageError:
        if self._down is None:
            self._down = error
            self._down_event.set()
        return self._down

    def _raise_if_down(self) -> None:
        if self._down is not None:
            raise type(self._down)(str(self._down))


def cancelled() -> bool:
    """Whether the running task itself is to end."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
