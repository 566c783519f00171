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

from config.errors import (
    AnswerTooLong,
    EndpointDown,
    KeyRejected,
    RequestRejected,
    StageStopped,
)
from config.settings import Endpoint
from models.budget import Amount, BudgetGuard
from models.limits import Pacer, backoff
from models.replies import (
    SHOWN_ERROR,
    ChatAnswer,
    Completion,
    answer_of,
    parse_completion,
    retry_after,
    sane,
    spent_on,
)
from models.requests import ChatRequest, ImagePart, ImageSource, Message, wire_body
from models.transport import BodyTooLong, Reply, TransportFault, TransportName, make_transport
from storage.responses import ResponseCache, StoredAnswer

__all__ = ["ChatAnswer", "ChatClient", "ChatRequest", "ImagePart", "Message", "spent_on"]

log = logging.getLogger("vispref.chat")

RETRIED = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 520, 521, 522, 523, 524, 529})
WEAKER = {"json_schema": "json_object", "json_object": "none"}


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
        self._failures_in_row = self._timeouts_in_row = 0
        self._down: StageStopped | None = None
        self._down_event = asyncio.Event()
        self._prompt_ratio = 1.0

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
        asked = self._asked.get(request.key)
        if asked is not None:
            return sane(replace(await asyncio.shield(asked), cached=True))  # paid by the other
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
        guess = request.text_bytes / 3 + request.images * self.endpoint.image_tokens
        prompt_tokens = int(guess * self._prompt_ratio) + 1
        worst = self._amount(prompt_tokens, request.max_tokens)
        await self._budget.reserve(worst)
        actual: Amount | None = None
        try:
            reply = await self._send(request, worst.tokens)
            stored = self._stored(request, reply, prompt_tokens)
            actual = Amount(stored.cost_usd, stored.prompt_tokens + stored.completion_tokens)
            self._cache.put(stored)
        finally:
            await self._budget.settle(worst, actual)
        if guess > 0 and not stored.usage_estimated:
            self._prompt_ratio = max(self._prompt_ratio, stored.prompt_tokens / guess)
        if self._tokens is not None:
            self._tokens.correct(actual.tokens - worst.tokens)
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
            request.key, self.role, self._redacted(reply.text), reply.finish_reason, reply.model,
            prompt, completion, self._amount(prompt, completion).dollars, estimated, self._payer,
        )  # fmt: skip

    async def _send(self, request: ChatRequest, tokens: int) -> Completion:
        successes, problem = self._successes, ""
        tries = self.endpoint.max_tries
        for attempt in range(1, tries + 1):
            await self._gate(tokens)
            structured = self._structured
            body = wire_body(request, self.endpoint, self._images, structured)
            async with self._slots:
                self._raise_if_down()
                found = await self._once(body)
            if isinstance(found, Completion):
                self._successes += 1
                self._failures_in_row = self._timeouts_in_row = 0
                return found
            if isinstance(found, Reply):
                if self._weakened(found, structured, request):
                    continue
                await self._refuse(found, request)
            problem = self._problem(found)
            self._count(found, attempt, problem)
            if attempt < tries:
                await self._back_off(found, attempt)
        message = f"{self.role} at {self.endpoint.base_url}: {tries} tries failed, last: {problem}"
        if self._successes == successes:
            raise self._stop(EndpointDown(f"{message}. Nothing done is lost; mend it, run again"))
        raise RequestRejected(f"{message}; other requests succeeded meanwhile", attempts=tries)

    async def _once(self, body: bytes) -> Completion | Reply | TransportFault:
        self.stats.sent += 1
        self.stats.in_flight += 1
        try:
            reply = await self._transport.post("/chat/completions", body)
        except TransportFault as fault:
            return fault
        except BodyTooLong:
            raise AnswerTooLong("the reply is longer than 4 MB; lower max_tokens") from None
        finally:
            self.stats.in_flight -= 1
        if reply.status != 200:
            return reply
        try:
            return parse_completion(reply.body)
        except (ValueError, KeyError, IndexError, TypeError) as error:
            shown = reply.body[:200].decode(errors="replace")
            return TransportFault(f"HTTP 200 without a chat completion ({error!r}): {shown}")

    async def _gate(self, tokens: int) -> None:
        """Waits for the endpoint's pause and limits. Raises when it is down."""
        self._raise_if_down()
        now = self._clock()
        wait = self._paused_until - now
        if self._requests is not None:
            wait = max(wait, self._requests.reserve(1, now))
        if self._tokens is not None:
            wait = max(wait, self._tokens.reserve(tokens, now))
        if wait > 0:
            await self._sleep(wait)

    async def _sleep(self, seconds: float) -> None:
        try:
            await asyncio.wait_for(self._down_event.wait(), seconds)
        except TimeoutError:
            return
        self._raise_if_down()

    async def _back_off(self, found: Reply | TransportFault, attempt: int) -> None:
        # While others succeed the server is alive and this request was unlucky: wait little.
        alive = self._failures_in_row < max(4, self.endpoint.concurrency // 4)
        wait = backoff(1 if alive else attempt, self._draw())
        if isinstance(found, Reply):
            asked = retry_after(found)
            if asked is not None:  # the server speaks for all requests to it
                self._paused_until = max(self._paused_until, self._clock() + asked)
                return
        await self._sleep(wait)

    def _count(self, found: Reply | TransportFault, attempt: int, problem: str) -> None:
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
        if request.schema is None or reply.status not in (400, 422) or structured not in WEAKER:
            return False
        text = reply.body[:SHOWN_ERROR].decode(errors="replace").lower()
        if not any(word in text for word in ("response_format", "json_schema", "json_object")):
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
        if reply.status in RETRIED or reply.status >= 500:
            return
        said = self._redacted(reply.body[:SHOWN_ERROR].decode(errors="replace"))
        where = f"{self.role} at {self.endpoint.base_url} answered HTTP {reply.status}: {said}"
        if reply.status in (401, 403):
            raise self._stop(
                KeyRejected(
                    f"{where}\nThe key is refused: set VISPREF_{self.role.upper()}__API_KEY"
                )
            )
        if reply.status == 404:
            served = await self._served_models()
            raise self._stop(EndpointDown(f"{where}\nAsked for {request.model!r}; {served}"))
        raise RequestRejected(where)

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
        said = found.body[:300].decode(errors="replace")
        return f"HTTP {found.status}: {self._redacted(said)}"

    def _redacted(self, text: str) -> str:
        """Servers echo keys; nothing we keep or say does."""
        key = self.endpoint.api_key
        secret = "" if key is None else key.get_secret_value()
        return text.replace(secret, "[key]") if secret else text

    def _stop(self, error: StageStopped) -> StageStopped:
        if self._down is None:
            self._down = error
            self._down_event.set()
        return self._down

    def _raise_if_down(self) -> None:
        if self._down is not None:
            raise type(self._down)(str(self._down))
