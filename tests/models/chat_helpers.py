"""Clients of the stand-in server for the tests of this folder."""

from __future__ import annotations

from pydantic import SecretStr

from config.settings import Budget, Endpoint
from models.budget import BudgetGuard
from models.chat import ChatClient
from models.requests import ChatRequest, ImagePart, Message
from storage.responses import ResponseCache

PAYER = "root"


class Images:
    """One image, whatever is asked for."""

    def data_url(self, digest):
        return f"data:image/png;base64,{digest}"

    def full_path(self, digest):
        return f"/images/{digest}.png"

    def path(self, digest):
        return f"images/{digest}.png"


def make_client(
    base_url,
    cache,
    *,
    budget=None,
    spent=(0.0, 0),
    key=None,
    transport="aiohttp",
    limits=None,
    **endpoint,
):
    settings = Endpoint(
        base_url=base_url,
        api_key=None if key is None else SecretStr(key),
        transport=transport,
        **{"timeout_s": 20.0, **endpoint},
    )
    return ChatClient(
        "claims",
        settings,
        cache=cache,
        budget=BudgetGuard(budget or Budget(), *spent),
        images=Images(),
        payer=PAYER,
        limits=limits,
        draw=lambda: 0.0,  # no waiting between tries
    )


def rewrite_request(number=0, **changes):
    """A request the stand-in's claim role answers."""
    data = (
        f'{{"question": "What is there?", "consistent": ["There is a dog {number}."], '
        '"inconsistent": [], "style_example": "There is a dog."}'
    )
    values = {
        "model": "stand-in-claims",
        "messages": (
            Message("system", ("Rewrite.",)),
            Message("user", (f"<data>\n{data}\n</data>",)),
        ),
        "temperature": 0.0,
        "top_p": 1.0,
        "max_tokens": 100,
        "schema_name": "rewrite",
        "schema": {"type": "object"},
    }
    return ChatRequest(**{**values, **changes})


__all__ = [
    "PAYER",
    "ImagePart",
    "Images",
    "Message",
    "ResponseCache",
    "make_client",
    "rewrite_request",
]
