"""The client of one OpenAI-compatible endpoint: cached, paced, budgeted, patient, and loud.

An answer is committed to the response cache before anyone sees it. A call waits for the budget,
then for a slot and the endpoint's limits (`models.sender`).
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict, replace

from config.errors import StageStopped, StorageError
from config.settings import Endpoint
from models.budget import Amount, BudgetGuard
from models.estimates import Estimates
from models.pressure import keep_queue_short
from models.replies import DECLINED, ChatAnswer, Completion, answer_of, sane, spent_on
from models.requests import ChatRequest, ImagePart, ImageSource, Message
from models.sender import Sender
from models.sharing import Sharing, folder_of
from models.transport import TransportName, make_transport
from storage.members import Members
from storage.responses import ResponseCache, StoredAnswer
from storage.root import Root

__all__ = [
    "DECLINED",
    "ChatAnswer",
    "ChatClient",
    "ChatRequest",
    "ImagePart",
    "Message",
    "spent_on",
]


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
        limits: Root | None = None,
        transport: TransportName | None = None,
        draw: Callable[[], float] = random.random,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`limits`: where processes divide endpoints' limits; None: all of them are this one's."""
        self.role, self.endpoint, self._limits = role, endpoint, limits
        self._clock = clock
        self._cache, self._budget, self._payer = cache, budget, payer
        self._wire = make_transport(transport or endpoint.transport, endpoint)
        self._sender = Sender(role, endpoint, self._wire, images, draw=draw, clock=clock)
        self.stats = self._sender.stats
        self._asked: dict[str, asyncio.Future[ChatAnswer]] = {}
        self._estimates = Estimates(endpoint)
        self._first_image = asyncio.Lock()

    async def aclose(self) -> None:
        await self._sender.aclose()

    @asynccontextmanager
    async def calling(self, say: Callable[[str], None]) -> AsyncIterator[None]:
        """Around the calls of one stage: shares the endpoint's limits with other processes, and
        watches the server. `say` is told what the calls wait for, and "" when they go on.

        Raises StorageError where the folder of the limits cannot be written.
        """
        sender = self._sender
        sender.outage.say = say
        sender.outage.check_again()
        who = sender.outage.who
        async with AsyncExitStack() as stack:
            if self._limits is not None:
                given = asdict(sender.throttle.limits)
                folder = folder_of(str(self.endpoint.base_url))
                members = Members(self._limits, folder, given, clock=self._clock)
                sharing = Sharing(members, sender.throttle, sender.halt, who, say)
                await stack.enter_async_context(sharing)
            watch = asyncio.create_task(
                keep_queue_short(who, self.endpoint, self._wire, sender.throttle)
            )
            try:
                yield
            finally:
                say("")
                watch.cancel()
                await asyncio.wait([watch])

    def stop(self, why: StageStopped) -> None:
        """Sends nothing more: calls on the wire are answered, those that wait raise `why`."""
        self._sender.stop(why)

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
                if not self._estimates.images_seen:
                    return await self._pay_now(request)
        return await self._pay_now(request)

    async def _pay_now(self, request: ChatRequest) -> ChatAnswer:
        prompt_tokens = self._estimates.worst(request)
        worst = self._amount(prompt_tokens, request.max_tokens)
        likely = self._estimates.likely(request) + request.max_tokens
        await self._budget.reserve(worst)
        actual: Amount | None = None
        try:
            reply = await self._sender.send(request, likely)
            stored = self._stored(request, reply, prompt_tokens)
            actual = Amount(stored.cost_usd, stored.prompt_tokens + stored.completion_tokens)
            known = None if stored.usage_estimated else stored.prompt_tokens
            self._estimates.learn(request, known)
            try:
                self._cache.put(stored)
            except StorageError as error:  # whatever else is asked would be paid for and lost too
                self._sender.stop(error)
                raise
        finally:
            await self._budget.settle(worst, actual)
        self._sender.used(actual.tokens - likely)
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
            request.key, self.role, self._sender.redacted(reply.text), reply.finish_reason,
            self._sender.redacted(reply.model),
            prompt, completion, self._amount(prompt, completion).dollars, estimated, self._payer,
        )  # fmt: skip


def cancelled() -> bool:
    """Whether the running task itself is to end."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
