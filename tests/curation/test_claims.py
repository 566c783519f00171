from __future__ import annotations

import json
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from curation.answers import parse_json_answer
from curation.claims import (
    EXTRACT_SCHEMA,
    REWRITE_SCHEMA,
    Claim,
    ExtractAnswer,
    RewriteAnswer,
    check_extract,
    check_rewrite,
    merge_claims,
)

VERDICTS = ["consistent", "inconsistent", "unverifiable"]
GOOD = {"claim": "There is a mug.", "verdict": "consistent", "answers": [1, 3], "evidence": "a mug"}


def make_claim(text: str, verdict: str = "consistent", *answers: int, evidence: str = "") -> Claim:
    return Claim.model_validate(
        {"claim": text, "verdict": verdict, "answers": answers or (1,), "evidence": evidence}
    )


def extracted(**changes: Any) -> ExtractAnswer:
    return parse_json_answer(json.dumps({"claims": [{**GOOD, **changes}]}), ExtractAnswer)


def test_an_answer_is_read() -> None:
    (claim,) = extracted(confidence=0.9).claims  # a field that was not asked for is ignored
    assert claim == make_claim("There is a mug.", "consistent", 1, 3, evidence="a mug")
    check_extract(extracted(), 3)


def test_small_slips_are_forgiven() -> None:
    (claim,) = extracted(verdict=" Inconsistent", evidence=None, claim=" A mug. ").claims
    assert (claim.verdict, claim.evidence, claim.claim) == ("inconsistent", "", "A mug.")


def test_no_claims_is_an_answer() -> None:
    answer = parse_json_answer('{"claims": []}', ExtractAnswer)
    check_extract(answer, 3)
    assert merge_claims(answer.claims) == ()


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"claim": "  "}, "claims.0.claim"),
        ({"claim": None}, "claims.0.claim"),
        ({"claim": "a" * 1001}, "claims.0.claim"),
        ({"verdict": "maybe"}, "claims.0.verdict"),
        ({"answers": "all"}, "claims.0.answers"),
        ({"answers": [1.5]}, "claims.0.answers.0"),
    ],
)
def test_the_wrong_field_is_named(changes: dict[str, Any], field: str) -> None:
    with pytest.raises(ValueError, match=rf"^{field}: "):
        extracted(**changes)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"answers": []}, r"claims\.0\.answers is empty"),
        ({"answers": [0]}, r"claims\.0\.answers names answer 0; the answers are 1 to 3"),
        ({"answers": [2, 4]}, "names answer 4"),
        ({"claim": "..."}, r"claims\.0\.claim holds no words"),
    ],
)
def test_claims_name_answers_that_were_given(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        check_extract(extracted(**changes), 3)


def test_the_same_claim_is_one_claim_of_all_its_answers() -> None:
    merged = merge_claims(
        [
            make_claim("There is a mug.", "consistent", 3, 1),
            make_claim("The mug is red.", "inconsistent", 2),
            make_claim("there is  a MUG", "consistent", 2, 3, evidence="a mug"),
        ]
    )
    assert merged == (
        make_claim("There is a mug.", "consistent", 1, 2, 3, evidence="a mug"),
        make_claim("The mug is red.", "inconsistent", 2),
    )


@pytest.mark.parametrize("other", ["inconsistent", "unverifiable"])
def test_a_claim_with_two_verdicts_decides_nothing(other: str) -> None:
    (merged,) = merge_claims(
        [make_claim("A mug."), make_claim("A mug!", other), make_claim("A mug")]
    )
    assert merged.verdict == "unverifiable"


claims = st.builds(
    make_claim,
    st.sampled_from(["A mug.", "a mug", "A  mug!", "A cup.", "ＡＣＵＰ", "a cup?"]),
    st.sampled_from(VERDICTS),
    st.integers(1, 5),
    st.integers(1, 5),
)


@given(st.lists(claims))
def test_merging_loses_no_answer_and_twice_is_once(given_claims: list[Claim]) -> None:
    merged = merge_claims(given_claims)
    assert merge_claims(merged) == merged
    assert {n for c in merged for n in c.answers} == {n for c in given_claims for n in c.answers}
    for claim in merged:
        assert list(claim.answers) == sorted(set(claim.answers))


@given(st.permutations([make_claim("A mug.", v, n) for n, v in enumerate(VERDICTS, 1)]))
def test_the_verdict_does_not_depend_on_the_order(shuffled: list[Claim]) -> None:
    (merged,) = merge_claims(shuffled)
    assert (merged.verdict, merged.answers) == ("unverifiable", (1, 2, 3))


@pytest.mark.parametrize(
    ("chosen", "rejected", "consistent", "inconsistent"),
    [
        ("A mug.", "A cup.", True, True),
        ("A mug.", None, True, False),
        (None, "A cup.", False, True),
    ],
)
def test_texts_where_there_are_claims(
    chosen: str | None, rejected: str | None, consistent: bool, inconsistent: bool
) -> None:
    check_rewrite(RewriteAnswer(chosen=chosen, rejected=rejected), consistent, inconsistent)


@pytest.mark.parametrize(
    ("chosen", "rejected", "consistent", "inconsistent", "said"),
    [
        (None, "A cup.", True, True, "chosen is null; write a text .* 'consistent'"),
        ("A mug.", None, True, True, "rejected is null; write a text .* 'inconsistent'"),
        ("A mug.", "A cup.", False, True, "chosen must be null, because 'consistent' is empty"),
        ("A mug.", "A cup.", True, False, "rejected must be null"),
        (" ", "A cup.", True, True, "chosen holds no text"),
        ("A mug.", "null", True, True, "rejected holds no text"),
        ("A mug.", "a  MUG", True, True, "the same text"),
    ],
)
def test_a_bad_rewrite_is_told_what_is_wrong(
    chosen: str | None, rejected: str | None, consistent: bool, inconsistent: bool, said: str
) -> None:
    answer = RewriteAnswer(chosen=chosen, rejected=rejected)
    with pytest.raises(ValueError, match=said):
        check_rewrite(answer, consistent, inconsistent)


def test_a_rewrite_names_both_texts() -> None:
    with pytest.raises(ValueError, match="rejected: Field required"):
        parse_json_answer('{"chosen": "A mug."}', RewriteAnswer)


@pytest.mark.parametrize(
    ("schema", "model", "example"),
    [
        (EXTRACT_SCHEMA, ExtractAnswer, {"claims": [GOOD]}),
        (REWRITE_SCHEMA, RewriteAnswer, {"chosen": "A mug.", "rejected": None}),
    ],
)
def test_a_schema_is_strict_and_asks_for_what_the_model_reads(
    schema: dict[str, Any], model: Any, example: dict[str, Any]
) -> None:
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(example, schema)
    model.model_validate(example)
    assert set(schema["properties"]) == set(model.model_fields)
    objects = [schema]
    while objects:
        found = objects.pop()
        assert found["additionalProperties"] is False
        assert found["required"] == list(found["properties"])
        parts = [part.get("items", part) for part in found["properties"].values()]
        objects += [part for part in parts if part["type"] == "object"]
    item = EXTRACT_SCHEMA["properties"]["claims"]["items"]
    assert set(item["properties"]) == set(Claim.model_fields)
    assert item["properties"]["verdict"]["enum"] == VERDICTS
