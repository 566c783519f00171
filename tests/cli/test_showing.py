from cli.showing import Planned, print_plan, summary
from config.settings import Budget
from stages.plan import StagePlan


def planned(dollars=None, budget=None, spent=0.0):
    stage = StagePlan(
        "rewrite", "claims", 412, 0,
        reasons={"the rewrite prompt changed": 412},
        prompt_tokens=1000, completion_tokens=500, dollars=dollars,
    )  # fmt: skip
    return Planned([stage], spent, 0, budget or Budget())


def test_a_plan_says_how_many_calls_and_why(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    print_plan(planned(dollars=1.0))
    out = capsys.readouterr().out
    assert "rewrite: 412 calls, because the rewrite prompt changed" in out
    assert "…" not in out


def test_a_budget_in_dollars_without_a_price_is_told_plainly():
    told = " ".join(summary(planned(budget=Budget(dollars=5))))
    assert "No price is set for claims: set VISPREF_CLAIMS__PRICE_IN and __PRICE_OUT" in told
    assert "cannot hold calls without a price" in told


def test_a_missing_price_is_not_called_no_cost(capsys):
    print_plan(planned())
    assert "no price" in capsys.readouterr().out
    assert "No price" not in " ".join(summary(planned(dollars=1.0)))


def test_a_budget_too_small_for_the_plan_is_told():
    left = " ".join(summary(planned(dollars=3.0, budget=Budget(dollars=5), spent=4.0)))
    assert "has $1.00 left, less than this plan: a build would stop" in left
    assert "enough for this plan" in " ".join(
        summary(planned(dollars=3.0, budget=Budget(dollars=5)))
    )
    assert "has 100 tokens left, less" in " ".join(summary(planned(budget=Budget(tokens=100))))
