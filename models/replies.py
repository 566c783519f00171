"""What came back: a server's reply read, an answer as the stages see it, and what it cost."""

from __future__ import annotations

import email.utils
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

import orjson

from config.errors import AnswerTooLong, Spent
from models.transport import Reply
from storage.responses import StoredAnswer

MAX_TEXT = 64 * 1024
SHOWN_ERROR = 2000
MAX_COUNT = 10**9  # tokens of one call; a larger count is a mistake
MIN_SECRET = 8
DECLINED = frozenset({"refusal", "content_filter"})  # finish_reasons: no answer was given
TOO_LONG = "too_long"  # the finish_reason of an answer that was not read to its end


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
    """A chat completion out of the body of HTTP 200; one without choices or content says "".

    Such an answer was paid for, so it is an answer. Raises ValueError for a body that is none.
    """
    found = orjson.loads(body)
    choices = found.get("choices") if isinstance(found, dict) else None
    if not isinstance(choices, list):
        raise ValueError("no choices")
    choice = choices[0] if choices and isinstance(choices[0], dict) else {}
    message = choice.get("message") if isinstance(choice.get("message"), dict) else {}
    text, refusal = _text(message.get("content")), _text(message.get("refusal"))
    reason = choice.get("finish_reason")
    usage = found.get("usage") if isinstance(found.get("usage"), dict) else {}
    return Completion(
        text or refusal,
        "refusal" if refusal and not text else reason if isinstance(reason, str) else None,
        str(found.get("model") or ""),
        _count_or_none(usage.get("prompt_tokens")),
        _count_or_none(usage.get("completion_tokens")),
    )


def error_in(body: bytes) -> Reply | None:
    """The error that a gateway reports with HTTP 200, as the reply it should have been."""
    try:
        found = orjson.loads(body)
    except ValueError:
        return None
    error = found.get("error") if isinstance(found, dict) else None
    if not error or found.get("choices"):
        return None
    code = error.get("code") if isinstance(error, dict) else None
    known = isinstance(code, int) and 400 <= code <= 599
    return Reply(code if known else 500, {}, body)


def _text(content: object) -> str:
    """A message's text, which may come as a list of parts. Raises ValueError for anything else."""
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        parts = [part for part in content if isinstance(part, dict)]
        return "".join(t for part in parts if isinstance(t := part.get("text"), str))
    raise ValueError(f"the content is of type {type(content).__name__}")


def _count_or_none(value: object) -> int | None:
    sane_count = isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_COUNT
    return value if sane_count else None  # type: ignore[return-value]


def redacted(text: str, secret: str | None, limit: int | None = None) -> str:
    """The text without the key, and only then cut: half a key is a secret too.

    Placeholders ("EMPTY", "none") are words that an answer may hold, and no secret.
    """
    if secret is not None and len(secret) >= MIN_SECRET:
        text = text.replace(secret, "[key]")
    return text[:limit]


def answer_of(stored: StoredAnswer, cached: bool) -> ChatAnswer:
    return ChatAnswer(
        stored.text, stored.finish_reason, stored.served_model, stored.prompt_tokens,
        stored.completion_tokens, stored.cost_usd, cached, stored.key,
    )  # fmt: skip


def sane(answer: ChatAnswer) -> ChatAnswer:
    """The answer, unless it is larger than any sane one. Raises AnswerTooLong."""
    if answer.finish_reason == TOO_LONG:
        raise AnswerTooLong(
            "the reply is longer than 4 MB; lower max_tokens", spent=spent_on([answer])
        )
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
        seconds = float(value)
        return max(0.0, seconds) if math.isfinite(seconds) else None
    except ValueError:
        pass
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, TypeError, OverflowError):
        return None
