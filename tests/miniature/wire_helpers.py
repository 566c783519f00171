"""Calls to the stand-in server, as its tests send them."""

from __future__ import annotations

import base64
import json
from typing import Any

import aiohttp

from config.digest import image_digest
from miniature.annotations import Annotation
from miniature.server import StandInServer

PICTURE = b"the bytes of a picture"
TRUTH = Annotation(image_digest(PICTURE), ("A dog sits on a couch.",), ("dog", "couch"))
CAPTION = "A dog sits on a couch. The picture contains: a dog, a couch."
REWRITE = {"question": "Describe.", "consistent": ["A dog sits."], "inconsistent": []}
SCHEMA = {"type": "json_schema", "json_schema": {"name": "answer", "schema": {"type": "object"}}}


def data_url(data: bytes = PICTURE) -> str:
    return "data:image/png;base64," + base64.b64encode(data).decode()


def picture_call(model: str = "stand-in-captioner", url: str | None = None, **more: Any) -> dict:
    image = {"type": "image_url", "image_url": {"url": url or data_url()}}
    parts = [image, {"type": "text", "text": "Describe the picture."}]
    return {"model": model, "messages": [{"role": "user", "content": parts}], **more}


def claims_call(**more: Any) -> dict[str, Any]:
    text = f"Rewrite.\n<data>\n{json.dumps(REWRITE)}\n</data>"
    return {
        "model": "stand-in-claims",
        "messages": [{"role": "system", "content": "Rewrite."}, {"role": "user", "content": text}],
        **more,
    }


async def send(
    server: StandInServer, body: Any, key: str = "any"
) -> tuple[int, dict[str, str], bytes]:
    async with (
        aiohttp.ClientSession(headers={"Authorization": f"Bearer {key}"}) as session,
        session.post(f"{server.base_url}/chat/completions", json=body) as response,
    ):
        return response.status, dict(response.headers), await response.read()


async def contents(server: StandInServer, body: Any) -> list[str]:
    status, _, raw = await send(server, body)
    assert status == 200, raw
    return [choice["message"]["content"] for choice in json.loads(raw)["choices"]]


async def refusal(server: StandInServer, body: Any) -> tuple[int, str]:
    status, _, raw = await send(server, body)
    return status, json.loads(raw)["error"]["message"]
