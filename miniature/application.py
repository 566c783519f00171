"""The stand-in server's routes: OpenAI's chat protocol, whoever it is that answers.

POST /v1/chat/completions, GET /v1/models; and for whoever runs it, without a key, GET /stats and
POST /faults ({"faults": [{"kind": "http_500", "probability": 0.1}], "seed": 0}).
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
from aiohttp import web

from miniature.faults import ODD_CONTENT, REFUSED, Fault, FaultPlan, parse_fault, spoil
from miniature.protocol import ChatCall, parse_call
from miniature.refusal import ProtocolError
from miniature.replies import Answer, Choice, completion_body, models_body, stream_events, usage_of
from miniature.services import Service
from miniature.tally import Tally

BODY_LIMIT = 64 * 1024 * 1024  # bytes of a request
SLOW_PIECES = 20
CONNECTION_CUT = 499  # by_status of a call that was reset, or that hung until its end

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class StandIn:
    """The HTTP application. `closing` ends calls that hang; set it before the server goes down.

    `media_folder`: the folder whose files file:// image URLs may name; None refuses them.
    """

    def __init__(
        self,
        service: Service,
        *,
        api_key: str | None = None,
        latency_ms: float = 0.0,
        faults: Iterable[Fault] = (),
        fault_seed: int = 0,
        media_folder: Path | None = None,
    ) -> None:
        self.service = service
        self._api_key = api_key
        self._latency_s = latency_ms / 1000
        self._plan = FaultPlan(faults, fault_seed)
        self._media_folder = media_folder
        self.tally = Tally()
        self.closing = asyncio.Event()

    def application(self) -> web.Application:
        app = web.Application(client_max_size=BODY_LIMIT)
        app.router.add_post("/v1/chat/completions", self._guarded(self._chat))
        app.router.add_get("/v1/models", self._guarded(self._models))
        app.router.add_get("/stats", self._stats)
        app.router.add_post("/faults", self._faults)
        return app

    def set_faults(self, faults: Iterable[Fault], seed: int = 0) -> None:
        """Replaces all faults from the next call on."""
        self._plan = FaultPlan(faults, seed)

    def _guarded(self, handler: Handler) -> Handler:
        async def guarded(request: web.Request) -> web.StreamResponse:
            given = request.headers.get("Authorization", "").removeprefix("Bearer ")
            if self._api_key is not None and given != self._api_key:
                # Some services echo the key; a client must not let it into its logs.
                error = ProtocolError(
                    401, f"Incorrect API key provided: {given}.", code="invalid_api_key"
                )
                self.tally.refused(401)
                return _json(error.body, 401)
            return await handler(request)

        return guarded

    async def _models(self, request: web.Request) -> web.StreamResponse:
        return _json(models_body(self.service.models, self.service.stands_for))

    async def _stats(self, request: web.Request) -> web.StreamResponse:
        return _json(orjson.dumps(self.tally.as_dict()))

    async def _faults(self, request: web.Request) -> web.StreamResponse:
        try:
            given = orjson.loads(await request.read())
            faults = [parse_fault(fault) for fault in given["faults"]]
            seed = int(given.get("seed", 0))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            return _json(ProtocolError(400, f"faults not understood: {error!r}").body, 400)
        self.set_faults(faults, seed)
        return _json(orjson.dumps({"faults": len(faults)}))

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        try:
            call = parse_call(body, self.service.models, self._media_folder)
        except ProtocolError as error:
            self.tally.refused(error.status)
            return _json(error.body, error.status)
        number = self.tally.begin(call, body)
        status: int | str = "cut off"
        try:
            response = await self._reply(request, call, number)
            status = response.status
            return response
        finally:
            self.tally.end(status)

    async def _reply(self, request: web.Request, call: ChatCall, number: int) -> web.StreamResponse:
        fault = self._plan.pick(number, call.role, call.format == "json_schema")
        if fault is not None:
            self.tally.fault(fault.kind)
            if fault.kind == "hang":
                await self.closing.wait()
            if fault.kind in ("hang", "reset"):
                return _dropped(request)
        if self._latency_s:
            await asyncio.sleep(self._latency_s)
        if fault is not None:
            instead = _instead(fault)
            if instead is not None:
                return instead
        try:
            answer = await self._answer(call, number, fault)
        except ProtocolError as error:
            return _json(error.body, error.status)
        usage = _usage(answer, fault)
        self.tally.tokens(usage_of(answer))
        if call.stream:
            return await _streamed(request, stream_events(call, number, answer.choices, usage))
        body = completion_body(call, number, answer.choices, usage)
        if fault is not None and fault.kind == "truncated_body":
            return _json(body[: len(body) // 2])
        if fault is not None and fault.kind == "slow_bytes":
            return await _slowly(request, body, fault.seconds)
        return _json(body)

    async def _answer(self, call: ChatCall, number: int, fault: Fault | None) -> Answer:
        if fault is None or fault.kind not in ODD_CONTENT:
            return await self.service.answer(call, number)
        # An odd content is odd whatever limit was asked for.
        answer = await self.service.answer(replace(call, stop=(), max_tokens=None), number)
        spoilt = (Choice(spoil(fault, choice.text or ""), "stop") for choice in answer.choices)
        return Answer(tuple(spoilt), answer.prompt_tokens)


def _json(body: bytes, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    return web.Response(body=body, status=status, headers=headers, content_type="application/json")


def _instead(fault: Fault) -> web.Response | None:
    """The error a fault gives in place of an answer; None where an answer follows."""
    if fault.kind == "html":
        return web.Response(text="<html><body>Bad gateway</body></html>", content_type="text/html")
    if fault.kind == "no_schema_support":
        message = "response_format of type 'json_schema' is not supported by this model"
        return _json(ProtocolError(400, message).body, 400)
    if fault.kind not in REFUSED:
        return None
    status = int(fault.kind.split("_")[1])
    told = fault.kind in ("http_429", "http_503")
    headers = {"Retry-After": f"{fault.seconds:g}"} if told else None
    return _json(ProtocolError(status, f"stand-in fault {fault.kind}").body, status, headers)


def _usage(answer: Answer, fault: Fault | None) -> dict[str, Any] | None:
    if fault is not None and fault.kind == "no_usage":
        return None
    if fault is not None and fault.kind == "bad_usage":
        return {"prompt_tokens": -1, "completion_tokens": None, "total_tokens": "many"}
    return usage_of(answer)


def _dropped(request: web.Request) -> web.Response:
    """Cuts the connection with a TCP reset; the response never leaves, but is counted."""
    transport = request.transport
    if transport is not None:
        connection = transport.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        transport.abort()
    return web.Response(status=CONNECTION_CUT)


async def _streamed(request: web.Request, events: Iterable[bytes]) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)
    for event in events:
        await response.write(event)
    await response.write_eof()
    return response


async def _slowly(request: web.Request, body: bytes, seconds: float) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "application/json"})
    response.content_length = len(body)
    await response.prepare(request)
    step = -(-len(body) // SLOW_PIECES)
    for at in range(0, len(body), step):
        await response.write(body[at : at + step])
        await asyncio.sleep(seconds / SLOW_PIECES)
    await response.write_eof()
    return response
