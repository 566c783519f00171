"""How many tokens a prompt takes, before the server says so. Pure."""

from __future__ import annotations

import math

import orjson

from config.settings import Endpoint
from models.requests import ChatRequest

BYTES_A_TOKEN = 3  # of usual text
MESSAGE_TOKENS = 32  # what a chat template may add to a message


class Estimates:
    """`likely` paces calls, `worst` is reserved of the budget; both learn from what was charged."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._image_tokens = endpoint.image_tokens
        self._likely_ratio = self._worst_ratio = 1.0
        self.images_seen = False

    def likely(self, request: ChatRequest) -> int:
        return math.ceil(self._guess(request) * self._likely_ratio)

    def worst(self, request: ChatRequest) -> int:
        """No tokeniser makes more tokens than bytes; an image is taken for the dearest one seen."""
        return math.ceil(self._bound(request) * self._worst_ratio)

    def learn(self, request: ChatRequest, prompt_tokens: int | None) -> None:
        """What the prompt was charged; None where the server did not say."""
        if request.images:
            self.images_seen = True
            if prompt_tokens is not None:
                dearest = math.ceil(prompt_tokens / request.images)
                self._image_tokens = max(self._image_tokens, dearest)
        elif prompt_tokens is not None:
            self._likely_ratio = max(self._likely_ratio, prompt_tokens / self._guess(request))
            self._worst_ratio = max(self._worst_ratio, prompt_tokens / self._bound(request))

    def _guess(self, request: ChatRequest) -> float:
        return 1 + request.text_bytes / BYTES_A_TOKEN + request.images * self._image_tokens

    def _bound(self, request: ChatRequest) -> int:
        schema = 0 if request.schema is None else len(orjson.dumps(request.schema))
        text = request.text_bytes + schema + MESSAGE_TOKENS * len(request.messages)
        return text + request.images * self._image_tokens
