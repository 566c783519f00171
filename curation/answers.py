"""From a model's text to a checked object, and from its text to "it declined". Pure."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterator
from typing import Any, TypeVar

import json_repair
from pydantic import BaseModel, ValidationError

T = TypeVar("T", bound=BaseModel)

SHOWN_PROBLEMS = 3  # a model that is asked again needs the first few, not a page of them
MESSAGE_CHARACTERS = 500

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
        return json.loads(text, strict=False)
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


# Refusals. All patterns are matched at the start of the plain text (lower case, straight
# apostrophes, one line), so that a caption which says further on what cannot be made out is kept.

_CANNOT = (
    r"i(?:(?:'m| am) (?:unable to|not able to|not allowed to|not permitted to|not going to)"
    r"| can't| cannot| can not| could not| couldn't| won't be able to| won't| will not"
    r"| do(?: not|n't) have the ability to| must decline to| have to decline to"
    r"|(?:'m| am) not comfortable| do(?: not|n't) feel comfortable)"
)
_OPENING = (
    r"(?:(?:i(?:'m| am) (?:really |very |so |truly )?(?:sorry|afraid)|sorry|(?:my )?apologies"
    r"|i apologi[sz]e(?: for [^.,]{1,60})?|unfortunately)"
    r"[,.;:!]?(?: -+)? ?(?:but )?(?:that )?)?(?:however,? )?"
)
_PICTURE = r"(?:the |this |that |your |any |an |a )?(?:image|picture|photo|photograph)s?\b"

_AI = (
    r"as an? (?:[\w-]+ ){0,3}(?:ai|a\.i\.|language model|assistant)(?: [\w-]+){0,4}, "
    r"(?:i can't|i cannot|i can not|i'm |i am |i do not|i don't|i won't|i will not)"
)
_HARD = re.compile(
    rf"{_OPENING}(?:"
    rf"{_CANNOT} (?:assist|comply|fulfil|help (?:you|with|in|identify|describe|answer)|help[.!,]|help$"
    r"|do that|continue with|engage (?:with|in)|process (?:this|that|your) request)"
    r"|i (?:must|have to|need to|will have to) (?:respectfully |politely )?(?:decline|refuse)"
    r"|i (?:respectfully |politely )?(?:decline|refuse) to"
    r"|(?:your|this|the|that) request (?:violates|goes against|is against|cannot be)"
    r")|" + _AI
)
_SOFT = re.compile(
    rf"{_OPENING}(?:"
    rf"{_CANNOT} (?:see|view|access|open|load|display|process|analy[sz]e|interpret|describ(?:e|ing)"
    rf"|caption(?:ing)?|look at|discuss(?:ing)?) (?:{_PICTURE}|it\b|it[.,]|the contents? of|(?:real )?people)"
    rf"|{_CANNOT} (?:identify(?:ing)?|recogni[sz]e|name) (?:real )?(?:people|individuals|anyone|who|persons"
    r"|(?:the|this|that) (?:real )?(?:person|people|individual|man|woman))"
    rf"|{_CANNOT} (?:provid(?:e|ing)|giv(?:e|ing)|offer|generat(?:e|ing)|creat(?:e|ing)|writ(?:e|ing)"
    r"|shar(?:e|ing)|produc(?:e|ing)) (?:you )?(?:with )?(?:a |an |any |the |that |this |such )?(?:detailed |factual )?"
    r"(?:caption|description|assistance|information|answer|response|content|that\b|help\b)"
    rf"|{_CANNOT} (?:answer|respond to) (?:that|this|the|your)"
    rf"|(?:i (?:do not|don't|can't|cannot) see|(?:it (?:seems|looks like|appears) )?(?:that )?"
    r"there(?:'s| is| was| isn't| wasn't| does not appear to be| doesn't appear to be)"
    rf"(?: no| any| an)?|no) {_PICTURE} ?(?:is |was |were |has been |have been )?"
    r"(?:attached|provided|uploaded|included|shared|in your message|to describe|to analy[sz]e)"
    rf"|(?:you (?:have not|haven't|did not|didn't)|please) (?:attach|provide|upload|share)(?:ed|d)? {_PICTURE}"
    r")"
)
_CHINESE = re.compile(
    r"(?:(?:很|非常|十分)?(?:抱歉|对不起|不好意思)[,。!、 ]*(?:但)?(?:作为[^,。]{1,20}[,])?我?(?:无法|不能|没有办法|不可以)"
    r"|我(?:无法|不能)(?:协助|帮助|提供|回答|满足|查看|识别(?:图|照)片中的人|描述(?:这|该))"
    r"|作为(?:一个|一名)?(?:ai|人工智能|语言模型)[^,。]{0,20}[,]我(?:无法|不能|没有))"
)
_CONTRAST = re.compile(r"\b(?:but|however|though|nevertheless|still|yet|that said)\b[,:]? ?")
_OFFER = re.compile(
    r"(?:i can |i could |i'd |i would |i'm |i am |i'll |i will |if |please|feel free|let me|you |"
    r"would you|happy to)"
)
_SHORT = 60  # words; who declines in part and then describes writes more


def looks_like_refusal(text: str) -> bool:
    """Whether a model declined instead of answering.

    Conservative: it looks at how the text starts. "I can't help with that" always is a refusal;
    "I can't see the picture clearly, but it shows a cat" is not, because an answer follows.
    """
    plain = _plain(text)
    if _HARD.match(plain) or _CHINESE.match(plain):
        return True
    soft = _SOFT.match(plain)
    if soft is None or len(plain.split()) > _SHORT:
        return False
    contrast = _CONTRAST.search(plain, soft.end())
    return contrast is None or _OFFER.match(plain, contrast.end()) is not None


def _plain(text: str) -> str:
    straight = unicodedata.normalize("NFKC", text).replace("’", "'").replace("—", "-")
    return " ".join(straight.split()).lstrip("*_#>\"'`“ ").lower()
