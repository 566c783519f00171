"""Sampling by seed: a row's tokens depend on its own seed and logits, not on the batch around it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from transformers import LogitsProcessor

SEEDS = 2**64


@dataclass(frozen=True, slots=True)
class Draw:
    """How one row samples: `index` numbers the samples of a request from 0, `limit` is in tokens."""

    seed: int
    index: int
    temperature: float
    top_p: float
    limit: int

    def uniforms(self) -> np.ndarray:
        """One number in [0, 1) for each position: float64 [limit], fixed by seed and index."""
        return np.random.default_rng((self.seed % SEEDS, self.index)).random(self.limit)


class SeededSampler(LogitsProcessor):
    """Chooses each row's next token itself and leaves generate's greedy search no other.

    A token is the one whose share of [0, 1), in the order of the vocabulary, holds the row's number
    for this position; at temperature 0 the likeliest. A row past its limit is given `end`.
    """

    def __init__(self, draws: Sequence[Draw], end: int, device: torch.device) -> None:
        steps = max(draw.limit for draw in draws)
        uniforms = np.zeros((len(draws), steps + 1))  # at its limit a row is ended
        for row, draw in enumerate(draws):
            if draw.temperature > 0:
                uniforms[row, : draw.limit] = draw.uniforms()
        numbers = [(draw.limit, draw.temperature, draw.top_p) for draw in draws]
        columns = torch.tensor(numbers, dtype=torch.float64, device=device)
        self._uniforms = torch.from_numpy(uniforms).to(device)
        self._limits, self._temperature, self._top_p = columns.split(1, dim=1)
        self._end = end
        self.start = 0

    def keep(self, rows: Tensor, start: int) -> None:
        """Goes on with these rows alone, whose answers begin at position `start` of input_ids."""
        self._uniforms, self._limits = self._uniforms[rows], self._limits[rows]
        self._temperature, self._top_p = self._temperature[rows], self._top_p[rows]
        self.start = start

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """`input_ids` [rows, position], `scores` [rows, vocabulary]: -inf but for one token a row."""
        position = input_ids.shape[1] - self.start
        chosen = scores.argmax(-1, keepdim=True)
        warm = self._temperature > 0
        if bool(warm.any()):
            chosen = torch.where(warm, self._sampled(scores, position), chosen)
        chosen = torch.where(self._limits <= position, self._end, chosen)
        return torch.full_like(scores, -torch.inf).scatter_(1, chosen, 0.0)

    def _sampled(self, scores: Tensor, position: int) -> Tensor:
        # A row at temperature 0 is not sampled; what it is divided by here does not matter.
        warmth = torch.where(self._temperature > 0, self._temperature, 1.0)
        shares = (scores.double() / warmth).softmax(-1)
        if bool((self._top_p < 1).any()):
            shares = _nucleus(shares, self._top_p)
        reached = shares.cumsum(-1)
        # Shares may sum to a little less than 1: the last of them ends the scale.
        aim = self._uniforms[:, position, None] * reached[:, -1:]
        return torch.searchsorted(reached, aim, right=True).clamp_(max=scores.shape[-1] - 1)


def _nucleus(shares: Tensor, top_p: Tensor) -> Tensor:
    """Shares with 0 for all but the likeliest tokens that reach `top_p` together (Holtzman et al.
    2020, "The Curious Case of Neural Text Degeneration")."""
    ordered, tokens = shares.sort(dim=-1, descending=True, stable=True)
    before = ordered.cumsum(-1) - ordered
    return torch.zeros_like(shares).scatter_(1, tokens, ordered * (before < top_p))
