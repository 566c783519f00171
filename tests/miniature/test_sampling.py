"""The seeded sampler draws from the distribution it is given, and only by its own seed."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from miniature.sampling import Draw, SeededSampler

SHARES = torch.tensor([0.5, 0.3, 0.15, 0.05])
END = 3


def tokens(draws: list[Draw], position: int = 0) -> list[int]:
    sampler = SeededSampler(draws, END, torch.device("cpu"))
    scores = SHARES.log().repeat(len(draws), 1)
    chosen = sampler(torch.zeros(len(draws), position, dtype=torch.long), scores)
    assert (chosen.isfinite().sum(-1) == 1).all()
    return chosen.argmax(-1).tolist()


def test_tokens_come_as_often_as_their_share() -> None:
    counts = Counter(tokens([Draw(seed, 0, 1.0, 1.0, 8) for seed in range(4000)], position=5))
    for token, share in enumerate(SHARES.tolist()):
        # Four standard deviations of a share of 4,000 draws, at most.
        assert counts[token] / 4000 == pytest.approx(share, abs=0.032)


def test_temperature_and_top_p_shape_the_shares() -> None:
    assert set(tokens([Draw(seed, 0, 0.0, 1.0, 8) for seed in range(50)])) == {0}
    assert set(tokens([Draw(seed, 0, 1.0, 0.79, 8) for seed in range(200)])) == {0, 1}
    cold = Counter(tokens([Draw(seed, 0, 0.5, 1.0, 8) for seed in range(2000)]))
    assert cold[0] / 2000 == pytest.approx(0.25 / (0.25 + 0.09 + 0.0225 + 0.0025), abs=0.045)


def test_a_row_at_its_limit_is_ended() -> None:
    draws = [Draw(seed, 0, 1.0, 0.4, 6) for seed in range(5)]
    assert tokens(draws, position=5) == [0] * 5
    assert tokens([*draws, Draw(0, 0, 0.0, 1.0, 7)], position=6) == [END] * 5 + [0]


def test_seed_number_and_position_each_change_the_draw() -> None:
    def draw(seed: int, index: int) -> list[float]:
        return Draw(seed, index, 1.0, 1.0, 6).uniforms().tolist()

    assert draw(1, 0) == draw(1, 0)
    assert len({*draw(1, 0), *draw(1, 1), *draw(2, 0), *draw(-1, 0)}) == 24
    longer = Draw(1, 0, 1.0, 1.0, 40).uniforms().tolist()
    assert longer[:6] == draw(1, 0)  # a larger limit changes no token before
