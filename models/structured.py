"""Answers that must be JSON: parsed, checked, and asked again with what was wrong."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import astuple, dataclass, replace
from typing import Generic, TypeVar

from pydantic import BaseModel

from config.errors import (
    EmptyAnswer,
    InvalidAnswer,
    RefusedAnswer,
    RowError,
    Spent,
    TruncatedAnswer,
)
from curation.answers import looks_like_refusal, parse_json_answer
from models.chat import DECLINED, ChatAnswer, ChatClient, ChatRequest, Message, spent_on

T = TypeVar("T", bound=BaseModel)
SHOWN_ANSWER = 2000


@dataclass(frozen=True)
class StructuredAnswer(Generic[T]):
    """The checked value, and every answer that was paid for on the way, the last one good."""

    value: T
    answers: list[ChatAnswer]


async def ask_structured(
    client: ChatClient,
    request: ChatRequest,
    model: type[T],
    *,
    max_asks: int,
    check: Callable[[T], object] | None = None,
) -> StructuredAnswer[T]:
    """Asks at most `max_asks` times. `check` raises ValueError for a value that will not do.

    Raises RowError with the last raw text, the number of asks and their cost.
    """
    answers: list[ChatAnswer] = []
    asked, problem = request, ""
    for _ in range(max_asks):
        try:
            answer = await client.ask(asked)
        except RowError as error:
            raise _with_earlier(error, answers) from error
        answers.append(answer)
        try:
            value = _read(answer, model)
            if check is not None:
                check(value)
            return StructuredAnswer(value, answers)
        except ValueError as error:
            problem = str(error)
        asked = replace(request, messages=(*request.messages, *_correction(answer.text, problem)))
    raise _failure(answers, problem)


def _read(answer: ChatAnswer, model: type[T]) -> T:
    if answer.finish_reason == "length":
        raise ValueError("the answer was cut off at the token limit; answer more briefly")
    return parse_json_answer(answer.text, model)


def _correction(text: str, problem: str) -> tuple[Message, ...]:
    said = text[:SHOWN_ANSWER] or "(nothing)"
    return (
        Message("assistant", (said,)),
        Message(
            "user",
            (
                f"That answer cannot be used: {problem}\n"
                "Answer the task above again, with the JSON object alone.",
            ),
        ),
    )


def _with_earlier(error: RowError, answers: list[ChatAnswer]) -> RowError:
    """The error of a later ask, with what the earlier ones said and cost."""
    before, now = spent_on(answers), error.spent
    spent = Spent(*(a + b for a, b in zip(astuple(before), astuple(now), strict=True)))
    raw_text = error.raw_text
    if raw_text is None and answers:
        raw_text = answers[-1].text
    attempts = len(answers) + error.attempts
    return type(error)(str(error), raw_text=raw_text, attempts=attempts, spent=spent)


def _failure(answers: list[ChatAnswer], problem: str) -> RowError:
    last = answers[-1]
    kind: type[RowError] = InvalidAnswer
    if not last.text.strip():
        kind = RefusedAnswer if last.finish_reason in DECLINED else EmptyAnswer
    elif last.finish_reason == "length":
        kind = TruncatedAnswer
    elif last.finish_reason in DECLINED or looks_like_refusal(last.text):
        kind = RefusedAnswer
    return kind(
        f"asked {'once' if len(answers) == 1 else f'{len(answers)} times'}: {problem}",
        raw_text=last.text,
        attempts=len(answers),
        spent=spent_on(answers),
    )
