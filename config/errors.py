"""Every error this project raises on purpose.

    VisprefError
    ├── RecipeError           a recipe, prompt or setting is wrong; nothing was run
    ├── InputError            an input file cannot be read at all (a bad row is a RefusedImage)
    ├── RefusedImage          one image is refused, with a reason from REFUSALS
    ├── RefusedRow            one row cannot be trained on, with a reason from TRAINING_REFUSALS
    ├── TrainingError         training cannot go on; the last good checkpoint stands
    ├── OperationError        servers and workers cannot be started, reached or stopped
    ├── StorageError          the dataset's root cannot be read or written
    │   ├── RootBusy          another run holds the root
    │   ├── RootLost          this run's hold of the root has ended; it must write no more
    │   └── FileMissing       a file that the root's tables name is not there
    ├── RowError              one row failed; it goes to the failures table, the rest goes on
    │   ├── InvalidAnswer     the model's answer is not what was asked for, after all asks
    │   ├── EmptyAnswer       the model answered nothing
    │   ├── RefusedAnswer     the model declined
    │   ├── TruncatedAnswer   the answer stopped at the token limit
    │   ├── AnswerTooLong     the answer is larger than any sane answer
    │   ├── RequestRejected   the server refused this request (HTTP 4xx)
    │   ├── InputMissing      what the row needs is no longer in the root
    │   └── UnexpectedError   an error nobody foresaw, which concerns this row alone
    └── StageStopped          the stage cannot go on; nothing done is lost, the rest stays pending
        ├── BudgetExhausted   the hard budget is reached
        ├── EndpointDown      the endpoint is dead or hanging
        ├── ModelNotServed    the endpoint serves other models than the recipe's
        └── KeyRejected       the endpoint refuses the key (HTTP 401, 403)

A message says what was given, what was expected, and what to do.
"""

from __future__ import annotations

from dataclasses import dataclass

REFUSALS = frozenset(
    {
        "missing",
        "empty",
        "truncated",
        "not_an_image",
        "wrong_extension",
        "decompression_bomb",
        "animated",
        "unreadable_mode",
        "unreadable_file",
        "outside_allowed_folders",
        "url_not_allowed",
        "url_private_address",
        "url_too_large",
        "url_timeout",
        "url_failed",
        "no_image",
        "no_prompt",
        "follow_up_turn",
        "bad_record",
    }
)

TRAINING_REFUSALS = frozenset(
    {
        "no_prompt",
        "no_response",
        "empty_response",
        "missing_image",
        "unreadable_image",
        "unfit_image",
        "reserved_token",
        "too_long",
    }
)


class VisprefError(Exception):
    """Base of all errors raised on purpose."""


class RecipeError(VisprefError):
    pass


class InputError(VisprefError):
    pass


class RefusedImage(VisprefError):
    """One image (or its record) is refused. `reason` is one of REFUSALS."""

    def __init__(self, reason: str, message: str) -> None:
        if reason not in REFUSALS:
            raise ValueError(f"unknown reason for a refusal: {reason!r}")
        super().__init__(message)
        self.reason = reason


class RefusedRow(VisprefError):
    """One row of a dataset cannot be trained on. `reason` is one of TRAINING_REFUSALS."""

    def __init__(self, reason: str, message: str) -> None:
        if reason not in TRAINING_REFUSALS:
            raise ValueError(f"unknown reason for a refusal: {reason!r}")
        super().__init__(message)
        self.reason = reason


class TrainingError(VisprefError):
    pass


class OperationError(VisprefError):
    pass


class StorageError(VisprefError):
    pass


class RootBusy(StorageError):
    pass


class RootLost(StorageError):
    pass


class FileMissing(StorageError):
    pass


@dataclass(frozen=True)
class Spent:
    """What the answers of one row cost; `calls` of them were paid in this run."""

    calls: int = 0
    cached: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost_usd: float = 0.0


class RowError(VisprefError):
    """One row failed. `raw_text` is what the model said, `attempts` how often it was asked."""

    def __init__(
        self,
        message: str,
        *,
        raw_text: str | None = None,
        attempts: int = 1,
        spent: Spent | None = None,
    ) -> None:
        super().__init__(message)
        self.raw_text = raw_text
        self.attempts = attempts
        self.spent = spent or Spent()


class InvalidAnswer(RowError):
    pass


class EmptyAnswer(RowError):
    pass


class RefusedAnswer(RowError):
    pass


class TruncatedAnswer(RowError):
    pass


class AnswerTooLong(RowError):
    pass


class RequestRejected(RowError):
    pass


class InputMissing(RowError):
    pass


class UnexpectedError(RowError):
    pass


class StageStopped(VisprefError):
    pass


class BudgetExhausted(StageStopped):
    pass


class EndpointDown(StageStopped):
    pass


class ModelNotServed(StageStopped):
    pass


class KeyRejected(StageStopped):
    pass
