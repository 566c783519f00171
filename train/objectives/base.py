"""What every loss is made of: the combinations it needs, its defaults and its formula."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from config.errors import RecipeError

IMAGES = ("image", "neighbour", "none", "crop")
RESPONSES = ("chosen", "rejected", "neighbour_chosen")


class Combination(NamedTuple):
    """One log-probability a loss needs: `response` given `image` and the row's prompt.

    image:    "image" is m, "neighbour" m', "none" the prompt without any image tokens, "crop" the
              stored crop of m.
    response: "chosen" is y_w, "rejected" y_l, "neighbour_chosen" y'_w (JoMPO's y_l).
    """

    image: str
    response: str


# Each [rows], fp32 (fp64 in tests): log pi(response | image, prompt), summed over the response's
# tokens and the end-of-sequence token.
LogProbs = Mapping[Combination, Tensor]
Terms = dict[str, Tensor]
Formula = Callable[[LogProbs, Mapping[str, float]], Terms]


@dataclass(frozen=True)
class Objective:
    """A loss as a value. See `terms`.

    combinations: the log-probabilities it needs; defaults: its parameters and their values;
    formula: from the log-ratios s = log pi - log pi_ref (the log-probabilities themselves where
    `needs_reference` is false) to the equation's terms, unweighted; weights: the parameter that
    weighs a term, 1 for a term that is not named; orders: (better, worse) pairs the loss asks for,
    by which accuracies and margins are reported.
    """

    name: str
    combinations: tuple[Combination, ...]
    defaults: Mapping[str, float]
    formula: Formula
    weights: Mapping[str, str] = field(default_factory=dict)
    orders: tuple[tuple[Combination, Combination], ...] = ()
    needs_reference: bool = True

    def parameters(self, given: Mapping[str, float]) -> dict[str, float]:
        """The defaults with what is given in their place.

        Raises RecipeError for a name the loss does not have or a value that is not finite.
        """
        for name, value in given.items():
            if name not in self.defaults:
                near = get_close_matches(name, self.defaults, n=1)
                hint = f" Did you mean {near[0]!r}?" if near else ""
                expected = ", ".join(self.defaults) or "none"
                raise RecipeError(
                    f"objective {self.name} has no parameter {name!r}; its parameters: "
                    f"{expected}.{hint}"
                )
            if not math.isfinite(value) or (name == "beta" and value <= 0):
                raise RecipeError(
                    f"objective {self.name}: {name} is {value!r}; expected a finite number"
                    f"{' above zero' if name == 'beta' else ''}"
                )
        return {**self.defaults, **given}

    def terms(self, policy: LogProbs, reference: LogProbs | None, **parameters: float) -> Terms:
        """The loss of each row: {"loss": [rows], and each term of the equation by name: [rows]}.

        "loss" is the weighted sum; the terms beside it are as the equation has them, unweighted.
        Gradients flow into `policy`; `reference` is taken as constant.
        Raises RecipeError for a parameter the loss does not have, ValueError where a log-probability
        is missing, not [rows], or of less than single precision.
        """
        values = self.parameters(parameters)
        terms = self.formula(self._scores(policy, reference), values)
        weighted = [
            values[self.weights[name]] * term if name in self.weights else term
            for name, term in terms.items()
        ]
        return {"loss": torch.stack(weighted).sum(0), **terms}

    def _scores(self, policy: LogProbs, reference: LogProbs | None) -> LogProbs:
        if self.needs_reference and reference is None:
            raise ValueError(f"objective {self.name} needs the reference's log-probabilities")
        _check(self, "policy", policy)
        if not self.needs_reference or reference is None:
            return policy
        _check(self, "reference", reference)
        return {which: policy[which] - reference[which].detach() for which in self.combinations}


def _check(objective: Objective, whose: str, given: LogProbs) -> None:
    rows = None
    for which in objective.combinations:
        if which not in given:
            raise ValueError(f"objective {objective.name}: the {whose} has no {which}")
        tensor = given[which]
        if tensor.ndim != 1 or tensor.dtype not in (torch.float32, torch.float64):
            raise ValueError(
                f"objective {objective.name}: the {whose}'s {which} is {tensor.dtype} "
                f"{tuple(tensor.shape)}; expected float32 [rows]"
            )
        if rows is not None and len(tensor) != rows:
            raise ValueError(
                f"objective {objective.name}: the {whose}'s {which} has {len(tensor)} rows, "
                f"others {rows}"
            )
        rows = len(tensor)


def prefer(better: Tensor, worse: Tensor, beta: float) -> Tensor:
    """-log sigma(beta (better - worse)), [rows]: DPO's term (SymMPO, eq. 5)."""
    return -logsigmoid(beta * (better - worse))


def anchor(score: Tensor, beta: float, delta: float) -> Tensor:
    """-log sigma(beta s - delta), [rows]: the anchored preference (SymMPO, eq. 10)."""
    return -logsigmoid(beta * score - delta)


def ranking(scores: list[Tensor], beta: float) -> Tensor:
    """-sum_k [ b_k - logsumexp_{j>=k} b_j ] with b = beta s, best first, [rows].

    The Plackett-Luce negative log-likelihood of the order given (JoMPO, eq. 6 and 7). The last
    place is certain and adds zero.
    """
    b = beta * torch.stack(scores)
    return sum(
        (torch.logsumexp(b[k:], 0) - b[k] for k in range(len(scores) - 1)), torch.zeros_like(b[0])
    )
