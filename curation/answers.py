"""From a model's text to a checked object, and from its text to "it declined"."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, TypeVar

import json_repair
from pydantic import BaseModel, ValidationError

from curation.refusals import looks_like_refusal

__all__ = ["looks_like_refusal", "parse_json_answer"]

T = TypeVar("T", bound=BaseModel)

SHOWN_PROBLEMS = 3  # a model that is asked again needs the first few, not a page of them
MESSAGE_CHARACTERS = 500
_DECODER = json.JSONDecoder(strict=False)

_STRING_OR_BRACE = re.compile(r'"(?:[^"\\]|\\.)*"|[{}"]', re.DOTALL)


def parse_json_answer(text: str, model: type[T]) -> T:
    """The JSON object in a model's answer, validated.

    Fences, prose around the object and slips of syntax are forgiven; a missing end is not, for a
    repaired half of an answer would pass for a whole one. Raises ValueError with a short message
    fit to be sent back to the model; it names the wrong field and quotes nothing of the answer.
    """
    whole = _loads(text)
    if isinstance(whole, dict):
        return _validated(whole, model)
    answer = text.rpartition("</think>")[2]  # drafts made while reasoning are not the answer
    objects = [found for span in _outermost_objects(answer) if (found := _repaired(span))]
    if not objects:
        raise ValueError(_what_is_missing(answer))
    valid, problem = _valid_ones(objects, model)
    if not valid:
        raise ValueError(problem)
    if any(other != valid[0] for other in valid[1:]):
        raise ValueError(f"the answer holds {len(valid)} JSON objects, expected exactly one")
    return valid[0]


def _loads(text: str) -> Any:
    """The JSON value, or None where the text is not JSON. Line breaks inside strings pass."""
    try:
        return _DECODER.decode(text)
    except (ValueError, RecursionError):
        return None


def _repaired(span: str) -> dict[str, Any] | None:
    found = _loads(span)
    if found is None:
        try:
            found = json_repair.loads(span, skip_json_loads=True)
        except (ValueError, RecursionError):
            return None
    return found if isinstance(found, dict) and found else None


def _outermost_objects(text: str) -> Iterator[str]:
    """The spans from an opening brace to its closing one, braces in strings left out.

    A quote that nothing closes ends the search: what follows cannot be told from a string.
    """
    position = text.find("{")
    while position >= 0:
        end = _closing_brace(text, position)
        if end is None:
            return
        yield text[position:end]
        position = text.find("{", end)


def _closing_brace(text: str, start: int) -> int | None:
    depth = 0
    for token in _STRING_OR_BRACE.finditer(text, start):
        if token.group() == '"':
            return None
        depth += {"{": 1, "}": -1}.get(token.group(), 0)
        if depth == 0:
            return token.end()
    return None


def _what_is_missing(text: str) -> str:
    if "{" in text:
        return "the JSON object is broken or stops before its end; give the whole object, valid"
    return "the answer holds no JSON object; answer with one JSON object and nothing else"


def _valid_ones(objects: list[dict[str, Any]], model: type[T]) -> tuple[list[T], str]:
    """The objects that fit, and what is wrong with the largest of those that do not."""
    valid: list[T] = []
    problems: list[tuple[int, str]] = []
    for found in objects:
        try:
            valid.append(_validated(found, model))
        except ValueError as error:
            problems.append((len(str(found)), str(error)))
    return valid, max(problems)[1] if problems else ""


def _validated(value: dict[str, Any], model: type[T]) -> T:
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise ValueError("a text holds half a surrogate pair; write whole characters") from error
    try:
        return model.model_validate(value)
    except ValidationError as error:
        raise ValueError(_explain(error)) from error


def _explain(error: ValidationError) -> str:
    problems = error.errors(include_url=False, include_input=False)
    shown = [
        f"{'.'.join(map(str, problem['loc'])) or 'the object'}: {problem['msg']}"
        for problem in problems[:SHOWN_PROBLEMS]
    ]
    if len(problems) > SHOWN_PROBLEMS:
        shown.append(f"and {len(problems) - SHOWN_PROBLEMS} more")
    return "; ".join(shown)[:MESSAGE_CHARACTERS]
