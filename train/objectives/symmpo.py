"""SymMPO and the three ablations of its table 2, each without exactly one term of eq. 11."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from train.objectives.base import Combination, LogProbs, Objective, Terms, anchor, prefer

M_YW = Combination("image", "chosen")
M_YL = Combination("image", "rejected")
M_YW2 = Combination("image", "neighbour_chosen")
M2_YW2 = Combination("neighbour", "neighbour_chosen")
M2_YW = Combination("neighbour", "chosen")

WEIGHTS = {"pair": "lambda", "margin": "gamma", "ancpo": "eta"}
DEFAULTS = {"beta": 0.1, "lambda": 0.5, "gamma": 1e-4, "eta": 1.0, "delta": 0.0}


def _formula(s: LogProbs, p: Mapping[str, float], without: str | None) -> Terms:
    """L = L_DPO + lambda L_Pair + gamma L_Margin + eta L_AncPO (eq. 11), D the preference margins.

    L_DPO    = -log sigma(beta (s(m,y_w) - s(m,y_l)))                                        (eq. 5)
    L_Pair   = -log sigma(beta D) - log sigma(beta D')                                       (eq. 8)
    L_Margin = (D - D')^2, without beta: gamma was tuned on that form                        (eq. 9)
    L_AncPO  = -log sigma(beta s(m,y_w) - delta) - log sigma(beta s(m',y'_w) - delta)       (eq. 10)
    D = s(m,y_w) - s(m,y'_w), D' = s(m',y'_w) - s(m',y_w).
    """
    beta, delta = p["beta"], p.get("delta", 0.0)
    margin = s[M_YW] - s[M_YW2]
    mirrored = s[M2_YW2] - s[M2_YW]
    terms = {
        "dpo": prefer(s[M_YW], s[M_YL], beta),
        "pair": prefer(s[M_YW], s[M_YW2], beta) + prefer(s[M2_YW2], s[M2_YW], beta),
        "margin": (margin - mirrored) ** 2,
        "ancpo": anchor(s[M_YW], beta, delta) + anchor(s[M2_YW2], beta, delta),
    }
    return {name: term for name, term in terms.items() if name != without}


def _variant(name: str, without: str | None, unused: tuple[str, ...] = ()) -> Objective:
    return Objective(
        name,
        (M_YW, M_YL, M_YW2, M2_YW2, M2_YW),
        {key: value for key, value in DEFAULTS.items() if key not in unused},
        partial(_formula, without=without),
        {term: weight for term, weight in WEIGHTS.items() if term != without},
        orders=((M_YW, M_YL), (M_YW, M_YW2), (M2_YW2, M2_YW)),
    )


OBJECTIVES = (
    _variant("symmpo", None),
    _variant("symmpo-no-pair", "pair", ("lambda",)),
    _variant("symmpo-no-margin", "margin", ("gamma",)),
    _variant("symmpo-no-ancpo", "ancpo", ("eta", "delta")),
)
