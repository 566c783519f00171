"""Captioner and reference from their checkpoints; the claim model by rule over the small language."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Mapping
from pathlib import Path

from miniature.claims import extract, rewrite
from miniature.decoder import Decoder, Sampled
from miniature.engine import Engine, Request
from miniature.protocol import CLAIMS, ChatCall
from miniature.reader import ClaimRules
from miniature.refusal import ProtocolError
from miniature.replies import Answer, Choice, before_stop
from miniature.services import claims_text, ruled

CAPTIONER, REFERENCE, CLAIM_MODEL = (
    "miniature-captioner",
    "miniature-reference",
    "miniature-claims",
)


class ModelService:
    """One engine for each of the two models, so that neither waits for the other."""

    models: Mapping[str, str] = {
        CAPTIONER: "captioner",
        REFERENCE: "reference",
        CLAIM_MODEL: CLAIMS,
    }
    stands_for: Mapping[str, str] = {
        "captioner": "a tiny LLaVA; the server stands in for vLLM",
        "reference": "a tiny LLaVA that hallucinates; the server stands in for vLLM",
        CLAIMS: "stands in for DeepSeek: a rule over the small language, no model",
    }

    def __init__(self, captioner: Decoder, reference: Decoder) -> None:
        self.engines = {"captioner": Engine(captioner), "reference": Engine(reference)}

    @classmethod
    def load(cls, captioner: Path, reference: Path) -> ModelService:
        """Serves two checkpoints' folders. Raises InputError for a folder that is none."""
        return cls(Decoder.load(captioner), Decoder.load(reference))

    async def answer(self, call: ChatCall, number: int) -> Answer:
        """See `miniature.services.Service`. Raises ProtocolError (400)."""
        if call.role == CLAIMS:
            text = claims_text(call, ClaimRules(extract, rewrite), gullible=False)
            return ruled(call, [text] * call.n)
        engine = self.engines[call.role]
        request = _request(call, engine.decoder)
        [future] = engine.submit(request)
        made = await asyncio.wrap_future(future)
        choices = tuple(_choice(engine.decoder, sampled, call.stop) for sampled in made)
        return Answer(choices, len(request.ids))

    def close(self) -> None:
        for engine in self.engines.values():
            engine.close()


def _request(call: ChatCall, decoder: Decoder) -> Request:
    if len(call.pictures) > 1:
        raise ProtocolError(400, f"{call.model} takes one image, got {len(call.pictures)}")
    picture = call.pictures[0] if call.pictures else None
    ids = decoder.prompt(call.messages, picture)
    limit = decoder.context - len(ids) if call.max_tokens is None else call.max_tokens
    if limit < 1 or len(ids) + limit > decoder.context:
        raise ProtocolError(
            400,
            f"This model's maximum context length is {decoder.context} tokens. However, you "
            f"requested {len(ids) + max(limit, 1)} tokens ({len(ids)} in the messages, "
            f"{max(limit, 1)} in the completion). Please reduce the length of either.",
            code="context_length_exceeded",
        )
    seed = secrets.randbits(63) if call.seed is None else call.seed
    return Request(ids, picture, call.n, seed, call.temperature, call.top_p, limit)


def _choice(decoder: Decoder, sampled: Sampled, stop: tuple[str, ...]) -> Choice:
    """The answer's text, cut before a stop text; the tokens up to that one's end were made."""
    text = decoder.text(sampled.ids)
    kept = before_stop(text, stop)
    if kept != text:
        tokens = next(
            n
            for n in range(1, len(sampled.ids) + 1)
            if any(word in decoder.text(sampled.ids[:n]) for word in stop)
        )
        return Choice(kept, "stop", tokens)
    ended = "stop" if sampled.ended else "length"
    return Choice(text, ended, len(sampled.ids) + sampled.ended)
