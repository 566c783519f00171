"""What is measured of a model: its answers about scenes, and its log-probabilities of pairs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import torch

from miniature.making.evaluate import answers
from miniature.making.mix import probes
from miniature.scenes import Scene
from miniature.scoring import score
from train.encode import EncodedRow
from train.objectives import Combination, LogProbs
from train.objectives.symmpo import M2_YW, M2_YW2, M_YW, M_YW2
from train.reference import still
from train.scoring import Scorer

PAIR = (M_YW, M_YW2, M2_YW2, M2_YW)
SCORED_AT_ONCE = 32
PROBES_SEED = 0


def answer_scores(
    model: Any, processor: Any, scenes: Sequence[Scene], kinds: Sequence[str]
) -> dict[str, float]:
    """Scores, in percent, of greedy answers to one prompt of each of `kinds` a scene.

    What no kind of prompt shows is left out.
    """
    from miniature.questions import question_of

    asked = []
    for index, text in probes(scenes, PROBES_SEED):
        question = question_of(text)
        if question is not None and question.kind in kinds:
            asked.append((index, text))
    pictures = [scene.picture() for scene in scenes]
    mode = model.training
    model.eval()
    texts = answers(model, processor, [(pictures[index], text) for index, text in asked])
    model.train(mode)
    found = score(texts, [scenes[index] for index, _ in asked], [text for _, text in asked])
    return {name: value for name, value in asdict(found).items() if value is not None}


def log_probs(scorer: Scorer, rows: Sequence[EncodedRow]) -> dict[Combination, torch.Tensor]:
    """fp32 [rows] for each combination, without gradients or dropout."""
    with still(scorer):
        found = [scorer(list(batch)) for batch in _batches(rows)]
    return {which: torch.cat([part[which] for part in found]) for which in found[0]}


def _batches(rows: Sequence[EncodedRow]) -> Iterator[Sequence[EncodedRow]]:
    for start in range(0, len(rows), SCORED_AT_ONCE):
        yield rows[start : start + SCORED_AT_ONCE]


def drift(policy: LogProbs, base: LogProbs) -> float:
    """The mean of log pi(y_w | m, x) - log pi_base(y_w | m, x), in nats."""
    return float((policy[M_YW] - base[M_YW]).mean())


def told_apart(scores: Mapping[Combination, torch.Tensor]) -> float:
    """The percentage of pairs in which each image's own answer scores above the other's.

    Equal scores do not count. `scores` may be log-probabilities or log-ratios to a reference.
    """
    own = (scores[M_YW] > scores[M_YW2]) & (scores[M2_YW2] > scores[M2_YW])
    return 100 * float(own.float().mean())


def pair_measures(policy: LogProbs, base: LogProbs) -> dict[str, float]:
    """Of held-out pairs, by s = log pi - log pi_base.

    held_out_drift (nats); apart: `told_apart` by s, in percent; apart_policy: by log pi; gap: the
    mean |D - D'| of SymMPO's eq. 9, in nats.
    """
    s = {which: policy[which] - base[which] for which in PAIR}
    gap = (s[M_YW] - s[M_YW2]) - (s[M2_YW2] - s[M2_YW])
    return {
        "held_out_drift": drift(policy, base),
        "apart": told_apart(s),
        "apart_policy": told_apart(policy),
        "gap": float(gap.abs().mean()),
    }
