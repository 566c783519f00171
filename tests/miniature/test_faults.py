from __future__ import annotations

from typing import Any

import pytest

from miniature.faults import KINDS, Fault, FaultPlan, parse_fault, spoil


def struck(plan: FaultPlan, calls: int, role: str = "claims", schema: bool = True) -> list[bool]:
    return [plan.pick(call, role, schema) is not None for call in range(1, calls + 1)]


def test_faults_are_read_from_text_and_from_fields() -> None:
    assert parse_fault("http_500=0.1") == Fault("http_500", probability=0.1)
    assert parse_fault("reset:3") == Fault("reset", next=3)
    given = {"kind": "http_429", "next": 2, "role": "claims", "seconds": 0.5}
    assert parse_fault(given) == Fault("http_429", next=2, role="claims", seconds=0.5)


@pytest.mark.parametrize(
    "given",
    [
        "reset",
        "nonsense:3",
        "reset:-1",
        "reset=1.5",
        "reset:many",
        {"kind": "reset"},
        {"kind": "reset", "next": 1, "probability": 0.5},
        {"kind": "reset", "next": 1, "role": "cook"},
        {"kind": "reset", "next": 1, "seconds": -1},
        {"kind": "reset", "times": 1},
        {"next": 1},
    ],
)
def test_what_is_no_fault_is_refused(given: str | dict[str, Any]) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        parse_fault(given)


def test_the_next_n_calls_fail_and_no_more() -> None:
    assert struck(FaultPlan([Fault("reset", next=2)]), 4) == [True, True, False, False]


def test_a_probability_is_seeded_by_the_calls_number() -> None:
    def drawn(seed: int) -> list[bool]:
        return struck(FaultPlan([Fault("reset", probability=0.3)], seed), 400)

    assert drawn(1) == drawn(1)
    assert drawn(1) != drawn(2)
    assert 80 < sum(drawn(1)) < 160
    assert not any(struck(FaultPlan([Fault("reset", probability=0)]), 50))
    assert all(struck(FaultPlan([Fault("reset", probability=1)]), 50))


def test_a_fault_of_one_role_spares_the_others_and_is_not_used_up_by_them() -> None:
    plan = FaultPlan([Fault("reset", next=1, role="claims")])
    assert struck(plan, 2, role="captioner") == [False, False]
    assert struck(plan, 2) == [True, False]


def test_a_missing_schema_support_shows_only_where_a_schema_is_asked() -> None:
    plan = FaultPlan([Fault("no_schema_support", probability=1), Fault("reset", next=1)])
    assert plan.pick(1, "claims", asks_schema=False) == Fault("reset", next=1)
    assert plan.pick(2, "claims", asks_schema=True) == Fault("no_schema_support", probability=1)


def test_the_first_fault_that_strikes_is_taken() -> None:
    plan = FaultPlan([Fault("reset", next=1), Fault("hang", next=1)])
    assert [plan.pick(n, "claims", False) for n in (1, 2, 3)] == [
        Fault("reset", next=1),
        Fault("hang", next=1),
        None,
    ]


def test_content_is_spoilt_as_named() -> None:
    text = '{"claims": []}'

    def spoilt(kind: str) -> str | None:
        return spoil(Fault(kind, next=1), text)

    assert spoilt("truncated_json") == '{"claim'
    assert spoilt("empty") == ""
    assert spoilt("null") is None
    assert "sorry" in (spoilt("refusal") or "")
    assert len(spoilt("huge") or "") >= 100_000
    prose = spoilt("prose_around_json") or ""
    assert text in prose
    assert not prose.startswith("{")
    untouched = set(KINDS) - {
        *("truncated_json", "empty", "null", "refusal", "huge", "prose_around_json")
    }
    assert {spoilt(kind) for kind in untouched} == {text}
    assert spoil(None, text) == text
