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
        uniforms = np.zeros((len(draws), steps))
        for row, draw in enumerate(draws):
            if draw.temperature > 0:
                uniforms[row, : draw.limit] = draw.uniforms()
        self._uniforms = torch.from_numpy(uniforms).to(device)

        def column(values: list[float]) -> Tensor:
            return torch.tensor(values, dtype=torch.float64, device=device)[:, None]

        self._limits = column([draw.limit for draw in draws])
        temperature = column([draw.temperature for draw in draws])
        self._greedy = temperature == 0
        self._temperature = torch.where(self._greedy, 1.0, temperature)
        top_p = column([draw.top_p for draw in draws])
        self._top_p = top_p if bool((top_p < 1).any()) else None
        self._all_greedy = bool(self._greedy.all())
        self._end = end

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """`input_ids` [rows, position], `scores` [rows, vocabulary]: -inf but for one token a row."""
        position = input_ids.shape[1]
        chosen = scores.argmax(-1, keepdim=True)
        if not self._all_greedy:
            chosen = torch.where(self._greedy, chosen, self._sampled(scores, position))
        chosen = torch.where(self._limits <= position, self._end, chosen)
        return torch.full_like(scores, -torch.inf).scatter_(1, chosen, 0.0)

    def _sampled(self, scores: Tensor, position: int) -> Tensor:
        shares = (scores.double() / self._temperature).softmax(-1)
        if self._top_p is not None:
            shares = _nucleus(shares, self._top_p)
        reached = shares.cumsum(-1)
        # Shares may sum to a little less than 1: the last of them ends the scale.
        aim = self._uniforms[:, position, None] * reached[:, -1:]
        return torch.searchsorted(reached, aim, right=True).clamp_(max=scores.shape[-1] - 1)


def _nucleus(shares: Tensor, top_p: Tensor) -> Tensor:
    """Shares with 0 for all but the likeliest tokens that reach `top_p` together (Holtzman et al.
    2020, "The Curious Case of Neural Text Degeneration")."""
    ordered, tokens = shares.sort(-1, descending=True, stable=True)
    before = ordered.cumsum(-1) - ordered
    return torch.zeros_like(shares).scatter_(1, tokens, ordered * (before < top_p))
