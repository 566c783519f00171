"""What a report says. Plain values, gathered by `report/reading.py` and drawn by `report/page.py`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Picture:
    """`source` is a data URL of a small copy, None where the file could not be read: then `fault`
    says why. `width` and `height` are the copy's, in pixels."""

    source: str | None
    width: int = 0
    height: int = 0
    fault: str = ""


@dataclass(frozen=True, slots=True)
class Claim:
    """An atomic claim of the sampled answers. `answers`: how many of them make it."""

    text: str
    verdict: str
    evidence: str
    answers: int


@dataclass(frozen=True, slots=True)
class Pair:
    """A training row. Cosines are None where they were not measured, `neighbour` where none is."""

    row_id: str
    split: str
    prompt: str
    chosen: str
    rejected: str
    neighbour_chosen: str | None
    image: Picture
    neighbour: Picture | None
    clip_cosine: float | None
    dino_cosine: float | None
    claims: Sequence[Claim]


@dataclass(frozen=True, slots=True)
class Lengths:
    """Words of one kind of text over all rows: how many texts have each number of words."""

    name: str
    counts: dict[int, int]


@dataclass(frozen=True, slots=True)
class Stage:
    """What a calling stage did. Tokens are counts, `cost` is in dollars."""

    name: str
    model: str
    rows: int
    failed: int
    calls: int
    prompt_tokens: int
    completion_tokens: int
    cost: float


@dataclass(frozen=True, slots=True)
class Made:
    """The digest of a stage's recipe, and the model that the recipe names, if it names one."""

    stage: str
    model: str
    digest: str


@dataclass(frozen=True, slots=True)
class Report:
    """`drops`: rows left out, by reason. `notes`: what a reader must know before the figures."""

    name: str
    dataset: str
    recipe: str
    rows: int
    kept: int
    splits: dict[str, int]
    drops: dict[str, int]
    pairs: Sequence[Pair]
    lengths: Sequence[Lengths]
    stages: Sequence[Stage]
    made: Sequence[Made]
    notes: Sequence[str] = field(default=())
