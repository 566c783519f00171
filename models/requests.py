"""What is asked of a model, its identity, and the JSON that goes over the wire."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol
from urllib.parse import quote

import orjson

from config.digest import bytes_digest
from config.errors import RecipeError
from config.settings import Endpoint


@dataclass(frozen=True, slots=True)
class ImagePart:
    """An image by the SHA-256 of its file; its bytes are put in when the request is sent."""

    digest: str


Part = str | ImagePart


@dataclass(frozen=True, slots=True)
class Message:
    role: str
    parts: tuple[Part, ...]


@dataclass(frozen=True)
class ChatRequest:
    """One call. `sample` tells equal requests apart; `nonce` a fresh try from the ones before."""

    model: str
    messages: tuple[Message, ...]
    temperature: float
    top_p: float
    max_tokens: int
    seed: int | None = None
    sample: int = 0
    nonce: int = 0
    schema_name: str | None = None
    schema: Mapping[str, Any] | None = field(default=None, hash=False)

    @cached_property
    def key(self) -> str:
        """The request's identity: all that decides the answer; no URL, key, or wire format."""
        identity = orjson.dumps(  # ten times as fast on long texts as the json module
            {
                "model": self.model,
                "messages": [[m.role, *map(_identity, m.parts)] for m in self.messages],
                "sampling": [self.temperature, self.top_p, self.max_tokens, self.seed],
                "sample": [self.sample, self.nonce],
                "schema": None if self.schema is None else [self.schema_name, self.schema],
            },
            option=orjson.OPT_SORT_KEYS,
        )
        return bytes_digest(identity)

    @property
    def text_bytes(self) -> int:
        return sum(len(p.encode()) for m in self.messages for p in m.parts if isinstance(p, str))

    @property
    def images(self) -> int:
        return sum(isinstance(p, ImagePart) for m in self.messages for p in m.parts)


def _identity(part: Part) -> Any:
    return part if isinstance(part, str) else {"image": part.digest}


class ImageSource(Protocol):
    """Where the images of requests come from."""

    def data_url(self, digest: str) -> str: ...

    def full_path(self, digest: str) -> str: ...

    def path(self, digest: str) -> str:
        """Relative to the dataset's root."""
        ...


def wire_body(
    request: ChatRequest, endpoint: Endpoint, images: ImageSource, structured: str
) -> bytes:
    """The request as OpenAI's protocol has it. `structured` is json_schema, json_object or none."""
    body: dict[str, Any] = {
        "model": request.model,
        "messages": [
            {"role": m.role, "content": _content(m, endpoint, images)} for m in request.messages
        ],
        "temperature": request.temperature,
        "top_p": request.top_p,
        "max_tokens": request.max_tokens,
    }
    if request.seed is not None:
        body["seed"] = request.seed
    if request.schema is not None and structured == "json_schema":
        body["response_format"] = {
            "type": "json_schema",
            "json_schema": {"name": request.schema_name, "schema": request.schema, "strict": True},
        }
    elif request.schema is not None and structured == "json_object":
        body["response_format"] = {"type": "json_object"}
    return orjson.dumps(body)


def _content(message: Message, endpoint: Endpoint, images: ImageSource) -> Any:
    if len(message.parts) == 1 and isinstance(message.parts[0], str):
        return message.parts[0]
    return [
        {"type": "text", "text": part}
        if isinstance(part, str)
        else {"type": "image_url", "image_url": {"url": _image_url(part, endpoint, images)}}
        for part in message.parts
    ]


def _image_url(part: ImagePart, endpoint: Endpoint, images: ImageSource) -> str:
    if endpoint.image_transport == "data":
        return images.data_url(part.digest)
    if endpoint.image_transport == "path":
        path = images.full_path(part.digest)
        if not path.startswith("/"):
            raise RecipeError(
                f"images of {path.partition('://')[0]}:// cannot travel as paths: set "
                "image_transport to data or url, or use a local root"
            )
        return "file://" + quote(path)  # a # or % in a folder's name is part of the path
    prefix = (endpoint.image_url_prefix or "").rstrip("/")
    return f"{prefix}/{quote(images.path(part.digest))}"
