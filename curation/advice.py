"""What to do about rows that failed, by class of error."""

from __future__ import annotations

ADVICE = {
    "InvalidAnswer": "Retry asks afresh. Many of them: a stronger model, or simplify the prompt.",
    "EmptyAnswer": "Retry asks afresh. Many of them: see what the server logs.",
    "RefusedAnswer": "The model declined. Retry asks afresh; another model may answer.",
    "TruncatedAnswer": "The answer met max_tokens: raise it in the recipe and build again.",
    "AnswerTooLong": "The server sent no sane answer: look at it, then retry.",
    "RequestRejected": "Read the example: the request is wrong for this server, or it was "
    "overloaded. Then retry, with a lower concurrency or another endpoint.",
    "InputMissing": "A file of the root is gone: ingest the input again.",
    "UnexpectedError": "Read the example, then retry; report it if it comes back.",
    "UnreadableImage": "The stored image is damaged: ingest the input again.",
    "UnusableVector": "The encoder gave no vector for this image: look at it.",
}
REFUSED = "Refused while reading the input: mend the record and build again."


def advice(stage: str, error_class: str) -> str:
    """One or two sentences for a person. A class without advice of its own says so."""
    if stage == "ingest":
        return REFUSED
    return ADVICE.get(error_class, "Read the example, then retry.")
