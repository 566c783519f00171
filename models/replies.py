"""What came back: a server's reply read, an answer as the stages see it, and what it cost."""

from __future__ import annotations

import email.utils
import time
from collections.abc import Sequence
from dataclasses import dataclass

import orjson

from config.errors import AnswerTooLong, Spent
from models.transport import Reply
from storage.responses import StoredAnswer

MAX_TEXT = 64 * 1024
SHOWN_ERROR = 2000


@dataclass(frozen=True, slots=True)
class ChatAnswer:
    """One answer. `cached`: nothing was paid for it now; its cost is what was paid then."""

    text: str
    finish_reason: str | None
    served_model: str
    prompt_tokens: int
    completion_tokens: int
    cost_usd: float
    cached: bool
    key: str


@dataclass(frozen=True, slots=True)
class Completion:
    """A chat completion; counts are None where the server sent no usage."""

    text: str
    finish_reason: str | None
    model: str
    prompt_tokens: int | None
    completion_tokens: int | None


def parse_completion(body: bytes) -> Completion:
    """Raises ValueError, KeyError, IndexError or TypeError for any other body."""
    found = orjson.loads(body)
    choice = found["choices"][0]
    message = choice["message"]
    text = message.get("content") or message.get("refusal") or ""
    usage = found.get("usage") or {}
    return Completion(
        str(text),
        choice.get("finish_reason"),
        str(found.get("model", "")),
        _count_or_none(usage.get("prompt_tokens")),
        _count_or_none(usage.get("completion_tokens")),
    )


def _count_or_none(value: object) -> int | None:
    return value if isinstance(value, int) and value >= 0 else None


def answer_of(stored: StoredAnswer, cached: bool) -> ChatAnswer:
    return ChatAnswer(
        stored.text, stored.finish_reason, stored.served_model, stored.prompt_tokens,
        stored.completion_tokens, stored.cost_usd, cached, stored.key,
    )  # fmt: skip


def sane(answer: ChatAnswer) -> ChatAnswer:
    """The answer, unless it is larger than any sane one. Raises AnswerTooLong."""
    if len(answer.text) > MAX_TEXT:
        raise AnswerTooLong(
            f"the answer has {len(answer.text):,} characters, expected at most {MAX_TEXT:,}",
            raw_text=answer.text[:SHOWN_ERROR],
            spent=spent_on([answer]),
        )
    return answer


def spent_on(answers: Sequence[ChatAnswer]) -> Spent:
    """The accounting of one row's answers: tokens and dollars of all, calls that were paid now."""
    paid = sum(not answer.cached for answer in answers)
    return Spent(
        calls=paid,
        cached=len(answers) - paid,
        prompt_tokens=sum(answer.prompt_tokens for answer in answers),
        completion_tokens=sum(answer.completion_tokens for answer in answers),
        cost_usd=sum(answer.cost_usd for answer in answers),
    )


def retry_after(reply: Reply) -> float | None:
    """Seconds a Retry-After header asks for (a number or an HTTP date), or None."""
    value = reply.headers.get("Retry-After")
    if value is None:
        return None
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, TypeError):
        return None
