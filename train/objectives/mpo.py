"""MPO, the multimodal baseline of the JoMPO paper: DPO and a preference between images (eq. 4)."""

from __future__ import annotations

from collections.abc import Mapping

from train.objectives.base import Combination, LogProbs, Objective, Terms, prefer

M_YW = Combination("image", "chosen")
M_YL = Combination("image", "rejected")
CROP_YW = Combination("crop", "chosen")


def _formula(s: LogProbs, p: Mapping[str, float]) -> Terms:
    """L = L_DPO + L_MPO, L_MPO = -log sigma(beta (s(m_w,x,y_w) - s(m_l,x,y_w))), m_l a crop of m_w."""
    return {
        "dpo": prefer(s[M_YW], s[M_YL], p["beta"]),
        "image": prefer(s[M_YW], s[CROP_YW], p["beta"]),
    }


OBJECTIVES = (
    Objective(
        "mpo",
        (M_YW, M_YL, CROP_YW),
        {"beta": 0.05},
        _formula,
        orders=((M_YW, M_YL), (M_YW, CROP_YW)),
    ),
)
