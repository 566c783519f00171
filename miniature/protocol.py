"""The chat-completions protocol as the stand-in server speaks it: request parsing, reply bodies."""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import orjson

MODELS = {
    "stand-in-captioner": "captioner",
    "stand-in-reference": "reference",
    "stand-in-claims": "claims",
}
CHARACTERS_A_TOKEN = 4
IMAGE_TOKENS = 256
_FORMATS = ("text", "json_object", "json_schema")


class ProtocolError(Exception):
    """The request is answered with an error. `body` is its JSON in OpenAI's form."""

    def __init__(self, status: int, message: str, *, code: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.body = orjson.dumps(
            {
                "error": {
                    "message": message,
                    "type": "invalid_request_error" if status < 500 else "server_error",
                    "param": None,
                    "code": code,
                }
            }
        )


@dataclass(frozen=True, slots=True)
class ChatCall:
    """One checked request. `messages` are (role, text), `images` the digests of its pictures."""

    model: str
    role: str
    messages: tuple[tuple[str, str], ...]
    images: tuple[str, ...]
    n: int
    seed: int | None
    temperature: float
    max_tokens: int | None
    stop: tuple[str, ...]
    format: str
    stream: bool
    stream_usage: bool

    @property
    def prompt_tokens(self) -> int:
        words = sum(count_tokens(text) for _, text in self.messages)
        return words + IMAGE_TOKENS * len(self.images)


@dataclass(frozen=True, slots=True)
class Choice:
    text: str | None
    finish_reason: str


def parse_call(body: bytes, media_folder: Path | None) -> ChatCall:
    """Checks a request body. Raises ProtocolError (400; 404 for an unknown model)."""
    try:
        given = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise ProtocolError(400, f"the body is not JSON: {error}") from error
    if not isinstance(given, dict):
        raise ProtocolError(400, "the body is not a JSON object")
    model = _field(given, "model", str, None)
    if model not in MODELS:
        raise ProtocolError(
            404, f"The model `{model}` does not exist; expected one of {', '.join(MODELS)}",
            code="model_not_found",
        )  # fmt: skip
    messages, images = _messages(given, media_folder)
    stop = given.get("stop") or ()
    options = _field(given, "stream_options", dict, {})
    return ChatCall(
        model=model,
        role=MODELS[model],
        messages=messages,
        images=images,
        n=_within(given, "n", int, 1, 1, 128),
        seed=_field(given, "seed", int, None),
        temperature=float(_within(given, "temperature", (int, float), 1.0, 0, 2)),
        max_tokens=_max_tokens(given),
        stop=(stop,) if isinstance(stop, str) else tuple(map(str, stop)),
        format=_format(given),
        stream=bool(given.get("stream")),
        stream_usage=bool(options.get("include_usage")),
    )


def count_tokens(text: str | None) -> int:
    """Tokens of a text: one for every four characters begun."""
    return -(-len(text or "") // CHARACTERS_A_TOKEN)


def cut(text: str | None, stop: tuple[str, ...], max_tokens: int | None) -> Choice:
    """Ends an answer at the first stop text or the token limit, whichever comes first."""
    if text is None:
        return Choice(None, "stop")
    found = [at for at in map(text.find, stop) if at >= 0]
    if found:
        text = text[: min(found)]
    if max_tokens is not None and count_tokens(text) > max_tokens:
        return Choice(text[: max_tokens * CHARACTERS_A_TOKEN], "length")
    return Choice(text, "stop")


def usage_of(call: ChatCall, choices: list[Choice]) -> dict[str, Any]:
    completion = sum(count_tokens(choice.text) for choice in choices)
    prompt = call.prompt_tokens
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
    }


def completion_body(
    call: ChatCall, number: int, choices: list[Choice], usage: dict[str, Any] | None
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
    call: ChatCall, number: int, choices: list[Choice], usage: dict[str, Any] | None
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


def models_body() -> bytes:
    """The answer of GET /v1/models."""
    listed = [
        {"id": name, "object": "model", "created": 0, "owned_by": "miniature"} for name in MODELS
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
) -> tuple[tuple[tuple[str, str], ...], tuple[str, ...]]:
    listed = _field(given, "messages", list, [])
    if not listed:
        raise ProtocolError(400, "'messages' is empty")
    messages: list[tuple[str, str]] = []
    images: list[str] = []
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
                images.append(_image_digest(str(part["image_url"].get("url")), media_folder))
            else:
                raise ProtocolError(400, f"a message part of type {kind!r} is not understood")
        messages.append((message["role"], "\n".join(texts)))
    return tuple(messages), tuple(images)


def _image_digest(url: str, media_folder: Path | None) -> str:
    if url.startswith("data:"):
        head, comma, payload = url.partition(",")
        if not comma or not head.startswith("data:image/") or not head.endswith(";base64"):
            raise ProtocolError(400, f"image URL {url[:60]!r} is not data:image/...;base64,...")
        try:
            data = base64.b64decode(payload, validate=True)
        except binascii.Error as error:
            raise ProtocolError(400, f"an image's base64 cannot be decoded: {error}") from error
        return hashlib.sha256(data).hexdigest()
    if url.startswith("file://"):
        return hashlib.sha256(_local_file(url, media_folder)).hexdigest()
    raise ProtocolError(400, f"image URL {url[:60]!r} is not fetched; send data: or file:// URLs")


def _local_file(url: str, media_folder: Path | None) -> bytes:
    if media_folder is None:
        raise ProtocolError(400, "Cannot load local files without --media-folder")
    path = Path(unquote(urlsplit(url).path)).resolve()
    if not path.is_relative_to(media_folder.resolve()):
        raise ProtocolError(400, f"{path} is outside --media-folder {media_folder}")
    try:
        return path.read_bytes()
    except OSError as error:
        raise ProtocolError(400, f"image file {path} cannot be read: {error}") from error
