"""Supervised fine-tuning on y_w: what JoMPO trains first, and a baseline."""

from __future__ import annotations

from collections.abc import Mapping

from train.objectives.base import Combination, LogProbs, Objective, Terms

M_YW = Combination("image", "chosen")


def _formula(logps: LogProbs, _: Mapping[str, float]) -> Terms:
    """-log pi(y_w | m, x), summed over tokens.

    Within a batch this has the direction of the token-averaged cross-entropy and is larger by the
    number of response tokens a row.
    """
    return {"nll": -logps[M_YW]}


OBJECTIVES = (Objective("sft", (M_YW,), {}, _formula, needs_reference=False),)
