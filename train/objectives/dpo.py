"""DPO, the baseline without a second image (SymMPO, eq. 5)."""

from __future__ import annotations

from collections.abc import Mapping

from train.objectives.base import Combination, LogProbs, Objective, Terms, prefer

M_YW = Combination("image", "chosen")
M_YL = Combination("image", "rejected")


def _formula(s: LogProbs, p: Mapping[str, float]) -> Terms:
    """L_DPO = -log sigma(beta (s(m,x,y_w) - s(m,x,y_l)))."""
    return {"dpo": prefer(s[M_YW], s[M_YL], p["beta"])}


OBJECTIVES = (Objective("dpo", (M_YW, M_YL), {"beta": 0.1}, _formula, orders=((M_YW, M_YL),)),)
