"""All numbers of the recipe, and the digest that tells which code and numbers made some weights."""

from __future__ import annotations

import ast
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from config.digest import digest

# What decides the weights. Comments and docstrings do not, so they are left out of the digest.
SOURCES = (
    "vocabulary.py",
    "scenes.py",
    "language.py",
    "questions.py",
    "making/beliefs.py",
    "making/mix.py",
    "making/training.py",
    "making/processor.py",
    "making/clip.py",
    "making/dino.py",
    "making/vlm.py",
)


@dataclass(frozen=True)
class Tower:
    """A vision transformer: `side` and `patch` in pixels; one patch covers one cell."""

    side: int = 60
    patch: int = 20
    width: int = 96
    layers: int = 2
    heads: int = 4
    inner: int = 288


@dataclass(frozen=True)
class Run:
    """One training run. Rates are peaks: a warm-up, then a straight line down to a tenth.

    `batch` counts scenes for the encoders and tokens, with padding, for the language models.
    `matrices` is Muon's rate, `others` AdamW's.
    """

    steps: int
    batch: int
    matrices: float
    others: float
    warm_up: float = 0.05


@dataclass(frozen=True)
class Recipe:
    """The whole recipe. Sizes are of the tiny models; `scenes` are of the train split."""

    seed: int = 0
    scenes: int = 16_000
    tower: Tower = field(default_factory=Tower)
    clip_dimension: int = 64
    clip_text_width: int = 64
    clip_context: int = 12
    language_width: int = 96
    language_layers: int = 3
    language_heads: int = 4
    language_inner: int = 256
    without_image: float = 0.1  # share of samples whose picture is left out
    clip: Run = field(default_factory=lambda: Run(900, 128, 3e-3, 1e-3))
    dino: Run = field(default_factory=lambda: Run(700, 128, 3e-3, 1e-3))
    reference: Run = field(default_factory=lambda: Run(3_300, 1_500, 3e-3, 1e-3))
    captioner: Run = field(default_factory=lambda: Run(1_200, 1_500, 2e-3, 7e-4))

    @property
    def digest(self) -> str:
        """32 hex characters over the numbers and the code of SOURCES."""
        package = Path(__file__).parents[1]
        code = {name: _meaning(ast.parse((package / name).read_text())) for name in SOURCES}
        return digest({"numbers": asdict(self), "code": code})

    def lasting(self, share: float) -> Recipe:
        """The same recipe with all runs shortened to a share of their steps, at least two."""
        shorter = {
            part.name: Run(**asdict(run) | {"steps": max(2, round(run.steps * share))})
            for part in fields(self)
            if isinstance(run := getattr(self, part.name), Run)
        }
        return Recipe(**{part.name: getattr(self, part.name) for part in fields(self)} | shorter)


def _meaning(node: Any) -> Any:
    """A syntax tree as JSON without places, docstrings and empty fields, which differ by version."""
    if isinstance(node, list):
        return [_meaning(item) for item in node if not _is_docstring(item)]
    if not isinstance(node, ast.AST):
        return node if isinstance(node, str | int | float | bool) else repr(node)
    parts = {name: value for name, value in ast.iter_fields(node) if value not in (None, [], "")}
    return {type(node).__name__: {name: _meaning(value) for name, value in parts.items()}}


def _is_docstring(node: Any) -> bool:
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )
