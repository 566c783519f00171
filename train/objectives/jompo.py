"""JoMPO and its ablations. m_w is a row's image, m_l its neighbour, y_l the neighbour's y_w.

Table 2 of the paper names five ablations ("w/o ranking", "w/o sym", "w/o ranking, sym", "w/o ranking,
text", "w/o ranking, no-image") and defines none of them. Ours:

- ranking: the listwise V-RPO (eq. 7) gives way to the pairwise losses of eq. 4 over every pair of the
  same order, -log sigma(b_better - b_worse). It cannot fall away whole: "w/o ranking, text" would
  then have nothing left, and the paper calls that row "image-only optimization".
- sym: the second and fourth line of eq. 8 fall away: everything that is asked of y_l as the better
  response.
- text: both DPO lines of eq. 8 fall away.
- no-image (here `none`, the slot's name): "none" leaves the order, and with it every pair it is in.

`jompo-no-text` and `jompo-no-none` drop these alone; the table has them only beside "ranking".
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from itertools import combinations, pairwise

from train.objectives.base import Combination, LogProbs, Objective, Terms, prefer, ranking

MW_YW = Combination("image", "chosen")
MW_YL = Combination("image", "neighbour_chosen")
ML_YL = Combination("neighbour", "neighbour_chosen")
ML_YW = Combination("neighbour", "chosen")
NONE_YW = Combination("none", "chosen")
NONE_YL = Combination("none", "neighbour_chosen")

Order = tuple[Combination, ...]
TEXT = {"dpo": (MW_YW, MW_YL), "dpo_neighbour": (ML_YL, ML_YW)}
IMAGES = {"images": (MW_YW, NONE_YW, ML_YW), "images_neighbour": (ML_YL, NONE_YL, MW_YL)}


def _formula(
    s: LogProbs, p: Mapping[str, float], orders: Mapping[str, Order], listwise: bool
) -> Terms:
    """L = L_DPO(m_w,x,y_w,y_l) + L_DPO(m_l,x,y_l,y_w)
        + L_V-RPO(x,y_w; m_w, none, m_l) + L_V-RPO(x,y_l; m_l, none, m_w)              (eq. 8)

    An order of two is eq. 3 either way. Scores carry beta.
    """
    beta = p["beta"]
    terms: Terms = {}
    for name, order in orders.items():
        if listwise:
            terms[name] = ranking([s[which] for which in order], beta)
        else:
            pairs = [prefer(s[better], s[worse], beta) for better, worse in combinations(order, 2)]
            terms[name] = sum(pairs[1:], pairs[0])
    return terms


def _variant(*without: str) -> Objective:
    orders = {**({} if "text" in without else TEXT), **IMAGES}
    if "sym" in without:
        orders = {name: order for name, order in orders.items() if "neighbour" not in name}
    if "none" in without:
        orders = {
            name: tuple(which for which in order if which.image != "none")
            for name, order in orders.items()
        }
    needed = dict.fromkeys(which for order in orders.values() for which in order)
    return Objective(
        "-".join(["jompo", "no", *without]) if without else "jompo",
        tuple(needed),
        {"beta": 0.05},
        partial(_formula, orders=orders, listwise="ranking" not in without),
        orders=tuple(pair for order in orders.values() for pair in pairwise(order)),
    )


OBJECTIVES = (
    _variant(),
    _variant("ranking"),
    _variant("sym"),
    _variant("ranking", "sym"),
    _variant("ranking", "text"),
    _variant("ranking", "none"),
    _variant("text"),
    _variant("none"),
)
