"""Requests of the chat-completions protocol, as the stand-in server understands them.

How it answers is in `miniature/replies.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from miniature.pictures import Picture, read_picture
from miniature.refusal import ProtocolError

CLAIMS = "claims"
_FORMATS = ("text", "json_object", "json_schema")


@dataclass(frozen=True, slots=True)
class ChatCall:
    """One checked request. `messages` are (role, text), with `pictures` in the order of mention.

    `role` is what its model does: captioner, reference or claims.
    """

    model: str
    role: str
    messages: tuple[tuple[str, str], ...]
    pictures: tuple[Picture, ...]
    n: int
    seed: int | None
    temperature: float
    top_p: float
    max_tokens: int | None
    stop: tuple[str, ...]
    format: str
    stream: bool
    stream_usage: bool


def parse_call(body: bytes, models: Mapping[str, str], media_folder: Path | None) -> ChatCall:
    """Checks a request body against the models served (name to role).

    Raises ProtocolError (400; 404 for an unknown model).
    """
    try:
        given = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise ProtocolError(400, f"the body is not JSON: {error}") from error
    if not isinstance(given, dict):
        raise ProtocolError(400, "the body is not a JSON object")
    model = _field(given, "model", str, None)
    if model not in models:
        raise ProtocolError(
            404, f"The model `{model}` does not exist; expected one of {', '.join(models)}",
            code="model_not_found",
        )  # fmt: skip
    messages, pictures = _messages(given, media_folder)
    stop = given.get("stop") or ()
    options = _field(given, "stream_options", dict, {})
    return ChatCall(
        model=model,
        role=models[model],
        messages=messages,
        pictures=pictures,
        n=_within(given, "n", int, 1, 1, 128),
        seed=_field(given, "seed", int, None),
        temperature=float(_within(given, "temperature", (int, float), 1.0, 0, 2)),
        top_p=_top_p(given),
        max_tokens=_max_tokens(given),
        stop=(stop,) if isinstance(stop, str) else tuple(map(str, stop)),
        format=_format(given),
        stream=bool(given.get("stream")),
        stream_usage=bool(options.get("include_usage")),
    )


def _field(given: dict[str, Any], key: str, kind: Any, default: Any) -> Any:
    value = given.get(key)
    if value is None:
        return default
    if not isinstance(value, kind) or isinstance(value, bool):
        raise ProtocolError(400, f"{key!r} is {str(value)[:100]!r}, which is of the wrong type")
    return value


def _within(
    given: dict[str, Any], key: str, kind: Any, default: Any, low: float, high: float
) -> Any:
    value = _field(given, key, kind, default)
    if not low <= value <= high:
        raise ProtocolError(400, f"{key!r} is {value}, expected {low} to {high}")
    return value


def _top_p(given: dict[str, Any]) -> float:
    share = float(_within(given, "top_p", (int, float), 1.0, 0, 1))
    if share == 0:
        raise ProtocolError(400, "'top_p' is 0, expected more than 0 and at most 1")
    return share


def _max_tokens(given: dict[str, Any]) -> int | None:
    key = (
        "max_completion_tokens" if given.get("max_completion_tokens") is not None else "max_tokens"
    )
    limit: int | None = _field(given, key, int, None)
    if limit is not None and limit < 1:
        raise ProtocolError(400, f"{key!r} is {limit}, expected at least 1")
    return limit


def _format(given: dict[str, Any]) -> str:
    wanted = _field(given, "response_format", dict, {"type": "text"})
    kind = wanted.get("type")
    if kind not in _FORMATS:
        raise ProtocolError(400, f"response_format type {kind!r} is none of {', '.join(_FORMATS)}")
    if kind == "json_schema":
        schema = wanted.get("json_schema")
        if not isinstance(schema, dict) or not schema.get("name") or "schema" not in schema:
            raise ProtocolError(400, "response_format json_schema needs a name and a schema")
    return str(kind)


def _messages(
    given: dict[str, Any], media_folder: Path | None
) -> tuple[tuple[tuple[str, str], ...], tuple[Picture, ...]]:
    listed = _field(given, "messages", list, [])
    if not listed:
        raise ProtocolError(400, "'messages' is empty")
    messages: list[tuple[str, str]] = []
    pictures: list[Picture] = []
    for message in listed:
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise ProtocolError(400, "a message has no role")
        content = message.get("content")
        if isinstance(content, str) or content is None:
            messages.append((message["role"], content or ""))
            continue
        if not isinstance(content, list):
            raise ProtocolError(400, "a message's content is neither text nor a list of parts")
        texts = []
        for part in content:
            kind = part.get("type") if isinstance(part, dict) else None
            if kind == "text" and isinstance(part.get("text"), str):
                texts.append(part["text"])
            elif kind == "image_url" and isinstance(part.get("image_url"), dict):
                pictures.append(read_picture(str(part["image_url"].get("url")), media_folder))
            else:
                raise ProtocolError(400, f"a message part of type {kind!r} is not understood")
        messages.append((message["role"], "\n".join(texts)))
    return tuple(messages), tuple(pictures)
