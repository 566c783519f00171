from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from config.errors import REFUSALS, InputError
from sources.records import BytesRef, PathRef, UrlRef
from sources.rows import BadRow, Plan, image_of, plan_rows, records_of

BASE = Path("/in")
PLAN = Plan("s", BASE, image="image", prompt="prompt", id="id")


def plan_of(*found: str, prompts: tuple[str, ...] = (), **columns: str) -> Plan:
    return plan_rows("s", BASE, found, columns, prompts)


def asked(plan: Plan, row: dict[str, Any]) -> list[tuple[str | None, str | None]]:
    return [(r.prompt, r.problem and r.problem[0]) for r in records_of(row, 0, plan)]


def test_the_usual_columns_are_found() -> None:
    plan = plan_of("id", "image", "prompt", "other")
    assert (plan.image, plan.prompt, plan.id) == ("image", "prompt", "id")
    plan = plan_of("image_path", "question")
    assert (plan.image, plan.prompt, plan.id) == ("image_path", "question", None)


def test_a_map_goes_before_the_usual_columns() -> None:
    plan = plan_of("image", "prompt", "file", "ask", "key", image="file", prompt="ask", id="key")
    assert plan.columns == ["file", "ask", "key"]


@pytest.mark.parametrize(
    ("found", "columns", "message"),
    [
        (["file", "prompt"], {}, r"no image column .* columns found: file, prompt; map yours"),
        (["image", "caption"], {}, r"no prompt column .* columns found: caption, image; map"),
        (["image", "prompt"], {"image": "file"}, r"no column 'file' \(mapped from image\)"),
        (["image", "prompt", "question"], {}, r"several columns .* \(prompt, question\)"),
    ],
)
def test_columns_are_never_guessed(found: list[str], columns: dict[str, str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        plan_of(*found, **columns)


def test_given_prompts_stand_in_for_a_prompt_column_and_never_beside_one() -> None:
    plan = plan_of("image", "text", prompts=("A?", "B?"))
    assert asked(plan, {"image": "a.png", "text": "n"}) == [("A?", None), ("B?", None)]
    with pytest.raises(InputError, match="its column 'prompt' has prompts too"):
        plan_of("image", "prompt", prompts=("A?",))


@pytest.mark.parametrize(
    ("value", "ref"),
    [
        ("a/b.png", PathRef(Path("/in/a/b.png"))),
        ("/abs.png", PathRef(Path("/abs.png"))),
        ("HTTPS://h/a.png", UrlRef("HTTPS://h/a.png")),
        ("file:///etc/passwd", UrlRef("file:///etc/passwd")),
        (b"\x89PNG", BytesRef(b"\x89PNG", None)),
        ({"bytes": b"x", "path": "a.png"}, BytesRef(b"x", "a.png")),
        ({"bytes": b"", "path": None}, BytesRef(b"", None)),
        ({"bytes": None, "path": "a.png"}, PathRef(Path("/in/a.png"))),
    ],
)
def test_an_image_is_a_path_a_url_or_bytes(value: Any, ref: Any) -> None:
    assert image_of(value, BASE) == (ref, None)


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (None, "no_image"),
        ("", "no_image"),
        ({"bytes": None, "path": None}, "no_image"),
        (7, "bad_record"),
        (["a.png", "b.png"], "bad_record"),
        ({}, "bad_record"),
        ({"url": "a"}, "bad_record"),
        ({"bytes": "text", "path": "a.png"}, "bad_record"),
        ({"bytes": b"x", "path": 7}, "bad_record"),
        ("data:image/png;base64,AAAA", "bad_record"),
        ("a\ud800.png", "bad_record"),
    ],
)
def test_anything_else_is_refused_with_a_reason(value: Any, reason: str) -> None:
    image, problem = image_of(value, BASE)
    assert image is None
    assert problem is not None
    assert problem[0] == reason


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (" Kept as it is. ", [(" Kept as it is. ", None)]),
        (["A?", "", 3], [("A?", None), (None, "no_prompt"), (None, "bad_record")]),
        ([], [(None, "no_prompt")]),
        (None, [(None, "no_prompt")]),
        ("  ", [(None, "no_prompt")]),
        (3, [(None, "bad_record")]),
        ("a\ud800", [(None, "bad_record")]),
    ],
)
def test_prompts(value: Any, expected: list[tuple[str | None, str | None]]) -> None:
    assert asked(PLAN, {"image": "a.png", "prompt": value}) == expected


def test_a_column_called_prompts_holds_lists() -> None:
    plan = plan_of("image", "prompts")
    assert asked(plan, {"image": "a", "prompts": ["A?", "B?"]}) == [("A?", None), ("B?", None)]
    assert asked(plan, {"image": "a", "prompts": '["A?"]'}) == [(None, "bad_record")]


def test_llava_turns_the_first_is_asked_and_the_later_ones_are_named() -> None:
    turns = [
        {"from": "human", "value": "<image>\nWhat is it?"},
        {"from": "gpt", "value": "A mug."},
        {"from": "human", "value": "And its colour?"},
        {"from": "gpt", "value": "Red."},
        {"from": "human", "value": ""},
    ]
    plan = plan_of("id", "image", "conversations")
    records = list(records_of({"id": 7, "image": "a.jpg", "conversations": turns}, 4, plan))
    assert [(r.position, r.item, r.external_id) for r in records] == [
        (4, 0, "7"),
        (4, 1, "7"),
        (4, 2, "7"),
    ]
    assert [(r.prompt, r.problem and r.problem[0]) for r in records] == [
        ("What is it?", None),
        ("And its colour?", "follow_up_turn"),
        (None, "follow_up_turn"),
    ]


@pytest.mark.parametrize(
    ("turns", "reason"),
    [
        ([{"from": "gpt", "value": "Hello"}], "no_prompt"),
        ([{"from": "human", "value": "<image>\n"}], "no_prompt"),
        ([{"from": "human"}], "no_prompt"),
        ([{"role": "user", "content": "Q"}], "bad_record"),
        ([{"from": "human", "value": "Q"}, "A"], "bad_record"),
    ],
)
def test_broken_turns(turns: list[Any], reason: str) -> None:
    plan = plan_of("image", "conversations")
    assert asked(plan, {"image": "a.jpg", "conversations": turns}) == [(None, reason)]


def test_a_json_text_gives_its_question() -> None:
    plan = plan_of("image", "image_path", "text")
    assert plan.image == "image"
    assert asked(plan, {"image": b"x", "text": '{"question": "Q?", "chosen": "c"}'}) == [
        ("Q?", None)
    ]
    assert asked(plan, {"image": b"x", "text": "Q?"}) == [(None, "bad_record")]
    assert asked(plan, {"image": b"x", "text": '{"chosen": "c"}'}) == [(None, "bad_record")]
    mapped = plan_of("image", "text", prompt="text")
    assert asked(mapped, {"image": b"x", "text": "Q?"}) == [("Q?", None)]


def test_a_row_without_an_image_still_gives_each_prompt_its_record() -> None:
    assert asked(PLAN, {"prompt": ["A?", "B?"]}) == [("A?", "no_image"), ("B?", "no_image")]


def test_an_id_that_is_no_text_or_number_is_refused() -> None:
    (record,) = records_of({"image": "a", "prompt": "A?", "id": ["x"]}, 0, PLAN)
    assert record.problem is not None
    assert record.problem[0] == "bad_record"


def test_a_bad_row_is_one_record_that_says_so() -> None:
    (record,) = records_of(BadRow("line 3: no"), 2, PLAN)
    assert (record.position, record.problem) == (2, ("bad_record", "line 3: no"))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["bytes", "path", "from", "value"]), inner, max_size=3)
    ),
    max_leaves=6,
)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # no timing here
@given(
    st.dictionaries(st.sampled_from(["image", "prompt", "id"]), json_values),
    st.sampled_from(["prompt", "prompts", "text"]),
)
def test_any_row_gives_at_least_one_record_and_never_fails(
    row: dict[str, Any], column: str
) -> None:
    plan = Plan("s", BASE, "image", column, "id", json_text=column == "text")
    if "prompt" in row:
        row[column] = row.pop("prompt")
    records = list(records_of(row, 0, plan))
    assert [record.item for record in records] == list(range(len(records)))
    assert records
    for record in records:
        assert record.problem is None or record.problem[0] in REFUSALS
        if record.problem is None:
            assert record.prompt is not None
            assert record.prompt.strip()
            record.prompt.encode()
