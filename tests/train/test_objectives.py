"""Losses against numbers worked by hand, and their gradients against finite differences."""

from __future__ import annotations

from math import log

import pytest
import torch

from config.errors import RecipeError
from train import objectives
from train.objectives import Combination

A, B, N, C = "image", "neighbour", "none", "crop"
W, L, W2 = "chosen", "rejected", "neighbour_chosen"
LN2, LN6 = log(2), log(6)
SYMMPO_S = {(A, W): 2.0, (A, L): -1.0, (A, W2): 0.0, (B, W2): 1.0, (B, W): -2.0}
JOMPO_S = {
    (A, W): 1.0,
    (A, W2): 0.0,
    (B, W2): 2.0,
    (B, W): -1.0,
    (N, W): 0.0,
    (N, W2): 0.0,
}


def logps(values: dict[tuple[str, str], float]) -> dict[Combination, torch.Tensor]:
    return {Combination(*which): torch.tensor([value]) for which, value in values.items()}


def terms_of(
    name: str, ratios: dict[tuple[str, str], float], **parameters: float
) -> dict[str, float]:
    """A row whose log-ratios are `ratios`: the reference is at -50, the policy off it by them."""
    reference = dict.fromkeys(ratios, -50.0)
    policy = {which: reference[which] + ratio for which, ratio in ratios.items()}
    found = objectives.get(name).terms(logps(policy), logps(reference), **parameters)
    return {term: value.item() for term, value in found.items()}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("dpo", LN2),
        ("mdpo", 3 * LN2),
        ("mpo", 2 * LN2),
        ("symmpo", 2.7726),  # ln 2 (1 + 2 lambda + 2 eta) = 4 ln 2
        ("symmpo-no-pair", 3 * LN2),
        ("symmpo-no-margin", 4 * LN2),
        ("symmpo-no-ancpo", 2 * LN2),
        ("jompo", 4.9698),  # 2 ln 2 + 2 ln 3!
        ("jompo-no-ranking", 8 * LN2),  # 2 + three pairs for each of two orders
        ("jompo-no-sym", LN2 + LN6),
        ("jompo-no-ranking-sym", 4 * LN2),
        ("jompo-no-ranking-text", 6 * LN2),
        ("jompo-no-ranking-none", 4 * LN2),
        ("jompo-no-text", 2 * LN6),
        ("jompo-no-none", 4 * LN2),
    ],
)
def test_a_policy_at_its_reference_has_the_loss_the_equations_give(
    name: str, expected: float
) -> None:
    needed = objectives.get(name).combinations
    assert terms_of(name, dict.fromkeys(needed, 0.0))["loss"] == pytest.approx(expected, abs=5e-5)


def test_every_objective_but_sft_has_its_golden_number() -> None:
    mark = next(
        mark
        for mark in test_a_policy_at_its_reference_has_the_loss_the_equations_give.pytestmark
        if mark.name == "parametrize"
    )
    assert {name for name, _ in mark.args[1]} == set(objectives.names()) - {"sft"}


def test_symmpo_by_hand() -> None:
    """beta .1. DPO: ln(1+e^-.3) = .554355. D = 2 - 0, D' = 1 + 2.
    Pair: ln(1+e^-.2) + ln(1+e^-.3) = .598139 + .554355. Margin: (2 - 3)^2.
    AncPO: ln(1+e^-.2) + ln(1+e^-.1) = .598139 + .644397.
    L = .554355 + .5 * 1.152494 + 1e-4 + 1.242536 = 2.373238.
    """
    assert terms_of("symmpo", SYMMPO_S) == pytest.approx(
        {"loss": 2.373238, "dpo": 0.554355, "pair": 1.152494, "margin": 1.0, "ancpo": 1.242536},
        abs=2e-6,
    )


def test_symmpo_takes_its_weights_from_the_recipe() -> None:
    """beta .2, delta .2: DPO ln(1+e^-.6) = .437488; pair ln(1+e^-.4) + ln(1+e^-.6) = .513015 +
    .437488; AncPO ln(1+e^-(.4-.2)) + ln(1+e^-(.2-.2)) = .598139 + .693147.
    L = .437488 + 2 * .950503 + 3 * 1 + 4 * 1.291286 = 10.503638.
    """
    given = {"beta": 0.2, "lambda": 2.0, "gamma": 3.0, "eta": 4.0, "delta": 0.2}
    assert terms_of("symmpo", SYMMPO_S, **given)["loss"] == pytest.approx(10.503638, abs=1e-5)


def test_jompo_by_hand() -> None:
    """beta 1. DPO: ln(1+e^-1) = .313262; mirrored: ln(1+e^-3) = .048587.
    Order (1, 0, -1): ln(1+e^-1+e^-2) + ln(1+e^-1) = .407606 + .313262.
    Order (2, 0, 0): ln(1+2e^-2) + ln 2 = .239545 + .693147. The sum is 2.015409.
    """
    assert terms_of("jompo", JOMPO_S, beta=1.0) == pytest.approx(
        {
            "loss": 2.015409,
            "dpo": 0.313262,
            "dpo_neighbour": 0.048587,
            "images": 0.720868,
            "images_neighbour": 0.932692,
        },
        abs=2e-6,
    )


def test_jompo_without_ranking_by_hand() -> None:
    """beta 1. Pairs of (1, 0, -1): 2 ln(1+e^-1) + ln(1+e^-2) = .626523 + .126928; of (2, 0, 0):
    2 ln(1+e^-2) + ln 2 = .253856 + .693147. Without none: ln(1+e^-2) = .126928 each.
    """
    found = terms_of("jompo-no-ranking", JOMPO_S, beta=1.0)
    assert found["images"] == pytest.approx(0.753451, abs=2e-6)
    assert found["images_neighbour"] == pytest.approx(0.947003, abs=2e-6)
    found = terms_of("jompo-no-ranking-none", JOMPO_S, beta=1.0)
    assert found["images"] == pytest.approx(0.126928, abs=2e-6)
    assert found["images_neighbour"] == pytest.approx(0.126928, abs=2e-6)


def test_mdpo_mpo_and_sft_by_hand() -> None:
    """beta 1, delta .5, s = 1, 0, -1: ln(1+e^-1) + ln(1+e^-2) + ln(1+e^-.5) = .313262 + .126928 +
    .474077; MPO is the first two. SFT is the negated log-probability.
    """
    s = {(A, W): 1.0, (A, L): 0.0, (C, W): -1.0}
    assert terms_of("mdpo", s, beta=1.0, delta=0.5)["loss"] == pytest.approx(0.914267, abs=2e-6)
    assert terms_of("mpo", s, beta=1.0)["loss"] == pytest.approx(0.440190, abs=2e-6)
    assert objectives.get("sft").terms(logps({(A, W): -7.0}), None)["loss"].item() == 7.0


@pytest.mark.parametrize(
    ("ablation", "full", "dropped"),
    [
        ("symmpo-no-pair", "symmpo", {"pair"}),
        ("symmpo-no-margin", "symmpo", {"margin"}),
        ("symmpo-no-ancpo", "symmpo", {"ancpo"}),
        ("jompo-no-sym", "jompo", {"dpo_neighbour", "images_neighbour"}),
        ("jompo-no-text", "jompo", {"dpo", "dpo_neighbour"}),
        ("jompo-no-ranking-sym", "jompo-no-ranking", {"dpo_neighbour", "images_neighbour"}),
        ("jompo-no-ranking-text", "jompo-no-ranking", {"dpo", "dpo_neighbour"}),
    ],
)
def test_an_ablation_drops_exactly_its_term(ablation: str, full: str, dropped: set[str]) -> None:
    values = SYMMPO_S if full == "symmpo" else JOMPO_S
    whole, rest = terms_of(full, values), terms_of(ablation, values)
    assert set(whole) - set(rest) == dropped
    weights = {"pair": 0.5, "margin": 1e-4}
    gone = sum(weights.get(term, 1.0) * whole[term] for term in dropped)
    assert rest["loss"] == pytest.approx(whole["loss"] - gone, abs=1e-6)
    assert all(rest[term] == whole[term] for term in rest if term != "loss")


def test_the_no_image_ablation_asks_for_no_row_without_an_image() -> None:
    for name in ("jompo-no-none", "jompo-no-ranking-none"):
        assert all(which.image != "none" for which in objectives.get(name).combinations)
    assert len(objectives.get("jompo").combinations) == 6
    assert len(objectives.get("symmpo").combinations) == 5


@pytest.mark.parametrize("name", objectives.names())
def test_gradients_match_finite_differences(name: str) -> None:
    objective = objectives.get(name)
    generator = torch.Generator().manual_seed(7)
    count = len(objective.combinations)
    reference = torch.randn(count, 3, dtype=torch.float64, generator=generator) - 20
    policy = reference + 3 * torch.randn(count, 3, dtype=torch.float64, generator=generator)

    def loss(*values: torch.Tensor) -> torch.Tensor:
        given = dict(zip(objective.combinations, values, strict=True))
        base = dict(zip(objective.combinations, reference, strict=True))
        return objective.terms(given, base)["loss"]

    inputs = tuple(row.clone().requires_grad_() for row in policy)
    assert torch.autograd.gradcheck(loss, inputs)


@pytest.mark.parametrize("name", [name for name in objectives.names() if name != "sft"])
def test_every_preferred_response_gains_by_the_gradient(name: str) -> None:
    objective = objectives.get(name)
    policy = {which: torch.zeros(1, requires_grad=True) for which in objective.combinations}
    objective.terms(policy, {which: torch.zeros(1) for which in policy})["loss"].backward()
    for better, worse in objective.orders:
        assert policy[better].grad < policy[worse].grad, (better, worse)
    assert policy[Combination(A, W)].grad < 0


def test_extreme_log_ratios_stay_finite() -> None:
    for name in objectives.names():
        objective = objectives.get(name)
        for size in (-1e4, 1e4):
            policy = {
                which: torch.full((2,), size if which.response == W else 0.0, requires_grad=True)
                for which in objective.combinations
            }
            zero = {which: torch.zeros(2) for which in policy}
            loss = objective.terms(policy, zero)["loss"].sum()
            loss.backward()
            assert torch.isfinite(loss)
            assert all(torch.isfinite(value.grad).all() for value in policy.values())


def test_wrong_names_and_values_are_refused_with_the_nearest_name() -> None:
    with pytest.raises(RecipeError, match="symmpo-no-pair"):
        objectives.get("symmpo-no-pairs")
    with pytest.raises(RecipeError, match="Did you mean 'beta'"):
        objectives.get("dpo").parameters({"betta": 0.1})
    with pytest.raises(RecipeError, match="no parameter 'lambda'"):
        objectives.get("symmpo-no-pair").parameters({"lambda": 0.5})
    for value in (0.0, -0.1, float("nan")):
        with pytest.raises(RecipeError, match="beta"):
            objectives.get("dpo").parameters({"beta": value})


def test_what_a_loss_cannot_use_is_refused() -> None:
    dpo = objectives.get("dpo")
    whole = logps({(A, W): -3.0, (A, L): -4.0})
    with pytest.raises(ValueError, match="needs the reference"):
        dpo.terms(whole, None)
    with pytest.raises(ValueError, match="rejected"):
        dpo.terms(logps({(A, W): -3.0}), whole)
    with pytest.raises(ValueError, match="float32"):
        dpo.terms({which: value.half() for which, value in whole.items()}, whole)
    with pytest.raises(ValueError, match="rows"):
        dpo.terms({**whole, Combination(A, L): torch.zeros(2)}, whole)
