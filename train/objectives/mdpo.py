"""mDPO (Wang et al., 2024), a baseline of both papers: DPO, a conditional term and an anchor.

The rejected image m_c is a crop of m, drawn once a row: the policy and the reference see the same
pixels.
"""

from __future__ import annotations

from collections.abc import Mapping

from train.objectives.base import Combination, LogProbs, Objective, Terms, anchor, prefer

M_YW = Combination("image", "chosen")
M_YL = Combination("image", "rejected")
CROP_YW = Combination("crop", "chosen")


def _formula(s: LogProbs, p: Mapping[str, float]) -> Terms:
    """L = L_DPO + L_cond + L_anc.

    L_cond = -log sigma(beta (s(m,x,y_w) - s(m_c,x,y_w))), L_anc = -log sigma(beta s(m,x,y_w) - delta).
    """
    return {
        "dpo": prefer(s[M_YW], s[M_YL], p["beta"]),
        "conditional": prefer(s[M_YW], s[CROP_YW], p["beta"]),
        "anchor": anchor(s[M_YW], p["beta"], p["delta"]),
    }


OBJECTIVES = (
    Objective(
        "mdpo",
        (M_YW, M_YL, CROP_YW),
        {"beta": 0.1, "delta": 0.0},
        _formula,
        orders=((M_YW, M_YL), (M_YW, CROP_YW)),
    ),
)
