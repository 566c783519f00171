"""The bodies the stand-in server answers with: chat.completion, its events, and /v1/models."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from miniature.protocol import ChatCall

CHARACTERS_A_TOKEN = 4
IMAGE_TOKENS = 256


@dataclass(frozen=True, slots=True)
class Choice:
    """`tokens`: how many were made; None where a rule wrote the text, which is then estimated."""

    text: str | None
    finish_reason: str
    tokens: int | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """What a call is answered with, and the tokens of its prompt."""

    choices: tuple[Choice, ...]
    prompt_tokens: int


def count_tokens(text: str | None) -> int:
    """Tokens of a text that no tokenizer has seen: one for every four characters begun."""
    return -(-len(text or "") // CHARACTERS_A_TOKEN)


def estimated_prompt(call: ChatCall) -> int:
    """Tokens of a call's prompt by `count_tokens`, and IMAGE_TOKENS a picture."""
    words = sum(count_tokens(text) for _, text in call.messages)
    return words + IMAGE_TOKENS * len(call.pictures)


def cut(text: str | None, stop: Sequence[str], max_tokens: int | None) -> Choice:
    """Ends an answer at the first stop text or the token limit, whichever comes first."""
    if text is None:
        return Choice(None, "stop")
    text = before_stop(text, stop)
    if max_tokens is not None and count_tokens(text) > max_tokens:
        return Choice(text[: max_tokens * CHARACTERS_A_TOKEN], "length")
    return Choice(text, "stop")


def before_stop(text: str, stop: Sequence[str]) -> str:
    """The text up to the first of the stop texts, or all of it."""
    found = [at for at in map(text.find, stop) if at >= 0]
    return text[: min(found)] if found else text


def usage_of(answer: Answer) -> dict[str, Any]:
    completion = sum(
        count_tokens(choice.text) if choice.tokens is None else choice.tokens
        for choice in answer.choices
    )
    return {
        "prompt_tokens": answer.prompt_tokens,
        "completion_tokens": completion,
        "total_tokens": answer.prompt_tokens + completion,
    }


def completion_body(
    call: ChatCall, number: int, choices: Sequence[Choice], usage: dict[str, Any] | None
) -> bytes:
    """A whole chat.completion. `usage` None leaves the key out."""
    body = _envelope(call, number, "chat.completion")
    body["choices"] = [
        {
            "index": index,
            "message": {"role": "assistant", "content": choice.text},
            "finish_reason": choice.finish_reason,
            "logprobs": None,
        }
        for index, choice in enumerate(choices)
    ]
    if usage is not None:
        body["usage"] = usage
    return orjson.dumps(body)


def stream_events(
    call: ChatCall, number: int, choices: Sequence[Choice], usage: dict[str, Any] | None
) -> Iterator[bytes]:
    """The server-sent events of a streamed completion, the closing [DONE] included."""
    for index, choice in enumerate(choices):
        text = choice.text or ""
        yield _event(call, number, index, {"role": "assistant", "content": ""}, None)
        for at in range(0, len(text), 5 * CHARACTERS_A_TOKEN):
            piece = text[at : at + 5 * CHARACTERS_A_TOKEN]
            yield _event(call, number, index, {"content": piece}, None)
        yield _event(call, number, index, {}, choice.finish_reason)
    if call.stream_usage:
        chunk = _envelope(call, number, "chat.completion.chunk") | {"choices": [], "usage": usage}
        yield b"data: " + orjson.dumps(chunk) + b"\n\n"
    yield b"data: [DONE]\n\n"


def models_body(models: Mapping[str, str], stands_for: Mapping[str, str]) -> bytes:
    """The answer of GET /v1/models. `models` is name to role, `stands_for` says what of a role."""
    listed = [
        {
            "id": name,
            "object": "model",
            "created": 0,
            "owned_by": "miniature",
            "description": stands_for[role],
        }
        for name, role in models.items()
    ]
    return orjson.dumps({"object": "list", "data": listed})


def _event(
    call: ChatCall, number: int, index: int, delta: dict[str, Any], finish_reason: str | None
) -> bytes:
    chunk = _envelope(call, number, "chat.completion.chunk")
    chunk["choices"] = [{"index": index, "delta": delta, "finish_reason": finish_reason}]
    return b"data: " + orjson.dumps(chunk) + b"\n\n"


def _envelope(call: ChatCall, number: int, kind: str) -> dict[str, Any]:
    return {"id": f"chatcmpl-{number}", "object": kind, "created": 0, "model": call.model}
