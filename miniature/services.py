"""What the server needs of whoever answers, and the one that answers by rule from annotations."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Protocol

from miniature.annotations import Annotation
from miniature.answers import AnswerBook, UnknownImage, extract, rewrite
from miniature.protocol import CLAIMS, ChatCall
from miniature.reader import ClaimRules, UnreadableTask, answer_claims
from miniature.refusal import ProtocolError
from miniature.replies import Answer, Choice, cut, estimated_prompt


class Service(Protocol):
    """Answers calls. `models` is name to role, `stands_for` says of each role what it replaces."""

    models: Mapping[str, str]
    stands_for: Mapping[str, str]

    async def answer(self, call: ChatCall, number: int) -> Answer:
        """The answer to the server's `number`-th call. Raises ProtocolError (400)."""
        ...

    def close(self) -> None:
        """Ends what the service runs. Calls in flight fail."""
        ...


class RuleService:
    """Captioner, reference and claim model by rule, over images whose annotations are known.

    `gullible`: the claim model obeys instructions that it finds outside the data block.
    """

    models: Mapping[str, str] = {
        "stand-in-captioner": "captioner",
        "stand-in-reference": "reference",
        "stand-in-claims": CLAIMS,
    }
    stands_for: Mapping[str, str] = {
        "captioner": "stands in for a captioner behind vLLM: a rule over annotations",
        "reference": "stands in for a reference model behind vLLM: a rule over annotations",
        CLAIMS: "stands in for DeepSeek: a rule over words",
    }

    def __init__(self, annotations: Iterable[Annotation], *, gullible: bool = False) -> None:
        self._book = AnswerBook(annotations)
        self._gullible = gullible

    async def answer(self, call: ChatCall, number: int) -> Answer:
        # As with a real model: greedy decoding ignores the seed, and no seed gives another
        # answer each time.
        seed = call.seed if call.seed is not None else number
        texts = [
            self._text(call, seed + index if call.temperature > 0 else 0) for index in range(call.n)
        ]
        return ruled(call, texts)

    def close(self) -> None:
        """There is nothing to end."""

    def _text(self, call: ChatCall, seed: int) -> str:
        if call.role == CLAIMS:
            return claims_text(call, ClaimRules(extract, rewrite), self._gullible)
        if len(call.pictures) != 1:
            raise ProtocolError(400, f"{call.model} expects one image, got {len(call.pictures)}")
        sha256 = call.pictures[0].sha256
        try:
            if call.role == "captioner":
                return self._book.caption(sha256)
            asked = [text for role, text in call.messages if role == "user"]
            return self._book.reference(sha256, asked[-1] if asked else "", seed)
        except UnknownImage as error:
            raise ProtocolError(400, str(error)) from error


def claims_text(call: ChatCall, rules: ClaimRules, gullible: bool) -> str:
    """The claim model's answer to a call. Raises ProtocolError (400)."""
    try:
        return answer_claims(call.messages, gullible, rules)
    except UnreadableTask as error:
        raise ProtocolError(400, str(error)) from error


def ruled(call: ChatCall, texts: Iterable[str]) -> Answer:
    """The answer whose texts were written by rule: cut at the call's limits, tokens estimated."""
    choices: tuple[Choice, ...] = tuple(cut(text, call.stop, call.max_tokens) for text in texts)
    return Answer(choices, estimated_prompt(call))
