"""Whether a model declined instead of answering, told by how its text starts.

Every pattern is anchored at the start of the plain text (lower case, straight apostrophes, one
line): a caption that says further on what cannot be made out is a caption.
"""

from __future__ import annotations

import re
import unicodedata

SHORT = 60  # words: who declines in part and describes after all writes more

_OPENINGS = (
    r"i(?:'m| am) (?:really |very |so |truly )?(?:sorry|afraid)(?: that)?",
    r"sorry",
    r"(?:my )?apologies",
    r"i apologi[sz]e(?: for [^.,]{1,60})?",
    r"unfortunately",
)
_CANNOT = (
    r"i (?:can't|cannot|can not|couldn't|could not|won't|will not|am unable to|am not able to)",
    r"i(?:'m| am) (?:unable|not able|not allowed|not permitted|not going) to",
    r"i(?:'m| am) not comfortable(?: with)?",
    r"i (?:won't|will not) be able to",
    r"i (?:don't|do not) (?:have the ability to|feel comfortable(?: with)?)",
)
_DECLINED = (  # said of the request itself: nothing can follow that makes it an answer
    r"assist\b",
    r"comply\b",
    r"fulfil",
    r"do (?:that|this)\b",
    r"help(?: (?:you|with|in|identify|describe|answer)\b|[.!,]|$)",
    r"(?:continue|engage|proceed) (?:with|in)\b",
    r"process (?:this|that|your) request",
)
_NOT_SEEN = (
    r"(?:see|view|access|open|load|display|process|interpret|look at|analy[sz]e|analy[sz]ing)",
    r"(?:describe|describing|caption|captioning|discuss|discussing)",
)
_PICTURE = r"(?:(?:the|this|that|your|any|an|a) )?(?:image|picture|photo|photograph)s?\b"
_PERSON = (
    r"(?:real )?(?:people|individuals|persons|anyone|who)\b",
    r"(?:the|this|that) (?:real )?(?:person|people|individual|man|woman)\b",
)
_GIVE = r"(?:provid|giv|generat|creat|writ|shar|produc)(?:e|ing)|offer(?:ing)?"
_GIVEN = (
    r"(?:you )?(?:with )?(?:(?:a|an|any|the|that|this|such) )?(?:detailed |factual )?"
    r"(?:caption|description|assistance|information|answer|response|content|that\b|help\b)"
)
_AI = (
    r"as an? (?:[\w-]+ ){0,3}(?:ai|language model|assistant)\b(?: [\w-]+){0,4}, "
    r"i(?:'m| am| can't| cannot| can not| do not| don't| won't| will not)\b"
)
_NO_PICTURE = (
    r"(?:i (?:don't|do not|can't|cannot) see"
    r"|(?:it (?:seems|looks like|appears) )?(?:that )?there(?:'s| is| was)"
    r"|(?:it (?:seems|looks like|appears) )?(?:that )?there (?:isn't|wasn't)"
    r"|there (?:does not|doesn't) (?:seem|appear) to be"
    rf"|no)(?: (?:no|any|an))? ?{_PICTURE}(?: (?:is|was|were|has been|have been))?"
    r" (?:attached|provided|uploaded|included|shared|in your message|to describe|to analy[sz]e)"
)
_CHINESE = (
    r"(?:很|非常|十分)?(?:抱歉|对不起|不好意思)[,。!、 ]*但?(?:作为[^,。]{1,20},)?"
    r"我?(?:无法|不能|没有办法)",
    r"我(?:无法|不能)(?:协助|帮助|提供|回答|满足|查看|描述[这该])",
    r"作为(?:一个|一名)?(?:ai|人工智能|语言模型)[^,。]{0,20},我(?:无法|不能|没有)",
)


def _any(*alternatives: str) -> str:
    return "(?:" + "|".join(alternatives) + ")"


_OPENING = rf"(?:{_any(*_OPENINGS)}[,.;:!]?(?: -+)? ?(?:but )?(?:however,? )?)?"
_OUTRIGHT = re.compile(
    _any(
        _OPENING + _any(*_CANNOT) + " " + _any(*_DECLINED),
        _OPENING + r"i (?:(?:must|have to|need to) )?(?:respectfully |politely )?decline\b",
        _OPENING + r"(?:your|this|the|that) request (?:violates|goes against|is against)\b",
        _AI,
        *_CHINESE,
    )
)
_IN_PART = re.compile(
    _OPENING
    + _any(
        rf"{_any(*_CANNOT)} {_any(*_NOT_SEEN)} {_any(_PICTURE, r'the contents? of', r'it[.,]')}",
        rf"{_any(*_CANNOT)} {_any('describ(?:e|ing)', 'discuss(?:ing)?')} {_any(*_PERSON)}",
        rf"{_any(*_CANNOT)} (?:identify(?:ing)?|recogni[sz]e|name) {_any(*_PERSON)}",
        rf"{_any(*_CANNOT)} {_any(_GIVE)} {_GIVEN}",
        rf"{_any(*_CANNOT)} (?:answer|respond to) (?:that|this|the|your)\b",
        _NO_PICTURE,
        rf"you (?:haven't|have not) (?:attached|provided|uploaded|shared) {_PICTURE}",
        rf"you (?:didn't|did not) (?:attach|provide|upload|share) {_PICTURE}",
        rf"please (?:attach|provide|upload|share) {_PICTURE}",
    )
)
_CONTRAST = re.compile(r"\b(?:but|however|though|nevertheless|still|yet|that said)\b[,:]? ?")
_OFFER = re.compile(
    r"(?:i (?:can|could|would|am|will)\b|i'(?:d|m|ll)\b|if\b|please\b|feel free|let me|you\b"
    r"|would you|happy to)"
)


def looks_like_refusal(text: str) -> bool:
    """Whether a model declined instead of answering. Conservative.

    "I can't help with that" always is a refusal. "I can't see the image" is one where the text is
    short and no answer follows: "..., but it shows a cat" is an answer, "..., but I can help with
    something else" is not.
    """
    plain = _plain(text)
    if _OUTRIGHT.match(plain):
        return True
    in_part = _IN_PART.match(plain)
    if in_part is None or len(plain.split()) > SHORT:
        return False
    contrast = _CONTRAST.search(plain, in_part.end())
    return contrast is None or _OFFER.match(plain, contrast.end()) is not None


def _plain(text: str) -> str:
    straight = unicodedata.normalize("NFKC", text).replace("’", "'").replace("—", "-")
    return " ".join(straight.split()).lstrip("*_#>\"'`“ ").lower()
