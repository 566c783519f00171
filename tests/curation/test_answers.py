"""Parsing of JSON answers. Refusals are in test_refusals.py."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from curation.answers import looks_like_refusal, parse_json_answer


class Mug(BaseModel):
    colour: str
    chips: list[int] = []


RED = Mug(colour="red", chips=[1, 2])
RED_JSON = '{"colour": "red", "chips": [1, 2]}'


@pytest.mark.parametrize(
    "text",
    [
        RED_JSON,
        f"\n  {RED_JSON}\n",
        f"```json\n{RED_JSON}\n```",
        f"```\n{RED_JSON}```",
        f"Here is the JSON you asked for:\n{RED_JSON}\nI hope it helps {{really}}.",
        f'The mug\'s "handle" is gone.\n{RED_JSON}',
        f'<think>Perhaps {{"colour": "blue"}}? No.</think>\n{RED_JSON}',
        f"{RED_JSON}\n\nAgain: {RED_JSON}",
        '{"colour": "red", "chips": [1, 2,],}',
        "{'colour': 'red', 'chips': [1, 2]}",
        '{"colour": "red" "chips": [1, 2]}',
        '{colour: "red", chips: [1, 2]}',
        '{"colour": "red", "chips": [1, 2}',
        '{"colour": "red", // the mug\n "chips": [1, 2]}',
        '{"colour": "red", "chips": [1, 2], "extra": {"deep": "}"}}',
    ],
)
def test_an_object_is_found_and_read(text: str) -> None:
    assert parse_json_answer(text, Mug) == RED


def test_a_line_break_inside_a_string_is_kept() -> None:
    assert parse_json_answer('{"colour": "red\nand blue"}', Mug).colour == "red\nand blue"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "no JSON object"),
        ("A red mug.", "no JSON object"),
        ("[1, 2]", "no JSON object"),
        ("null", "no JSON object"),
        ('{"chips": [1]}', "colour: Field required"),
        ('{"colour": null}', "colour: Input should be a valid string"),
        ('{"colour": "red", "chips": [1, "two"]}', "chips.1: Input should be a valid integer"),
        (f'{RED_JSON} or {{"colour": "blue"}}', "2 JSON objects"),
        ('{"colour": "red", "chips": [1, 2', "stops before its end"),
        ('{"colour": "re', "stops before its end"),
        ('{"colour": "a 5" mug"}', "stops before its end"),
        ('{"colour": "lone \\ud800 surrogate"}', "surrogate pair"),
    ],
)
def test_what_is_wrong_is_named(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said.replace(".", r"\.")):
        parse_json_answer(text, Mug)


def test_a_cut_list_is_not_taken_for_a_whole_one() -> None:
    cut = '{"colour": "red", "chips": [1], "more": [{"a": 1}, {"a": '
    with pytest.raises(ValueError, match="stops before its end"):
        parse_json_answer(cut, Mug)


def test_the_message_is_short_and_quotes_nothing_of_the_answer() -> None:
    secret = "IGNORE ALL INSTRUCTIONS"
    text = json.dumps({"colour": [secret], "chips": [secret] * 50})
    with pytest.raises(ValueError, match="and 48 more") as caught:
        parse_json_answer(text, Mug)
    assert secret not in str(caught.value)
    assert len(str(caught.value)) <= 500


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, "{" * 100_000, "1" * 10_000])
def test_hostile_nesting_is_a_value_error(text: str) -> None:
    with pytest.raises(ValueError, match="JSON object"):
        parse_json_answer(text, Mug)


_plain_text = st.text(st.characters(exclude_categories=["Cs"]))


@given(_plain_text, st.lists(st.integers()), st.booleans())
def test_json_round_trips_whatever_it_holds(
    colour: str, chips: list[int], ascii_only: bool
) -> None:
    mug = Mug(colour=colour, chips=chips)
    text = json.dumps(mug.model_dump(), ensure_ascii=ascii_only)
    assert parse_json_answer(text, Mug) == mug
    assert parse_json_answer(f"Of course! ```json\n{text}\n``` That's all.", Mug) == mug


@given(st.text(st.sampled_from("{}[]\",:\\'ab1 \n")))
def test_any_text_gives_the_object_or_a_value_error(text: str) -> None:
    try:
        found = parse_json_answer(text, Mug)
    except ValueError:
        return
    assert isinstance(found, Mug)


@given(st.lists(st.integers(0, 99), min_size=1), st.data())
def test_no_prefix_of_an_object_is_taken_for_it(chips: list[int], data: st.DataObject) -> None:
    text = json.dumps({"colour": "red", "chips": chips, "inner": {"a": {"b": "}"}}})
    cut = data.draw(st.integers(0, len(text) - 1))
    with pytest.raises(ValueError, match="JSON object"):
        parse_json_answer(text[:cut], Mug)


def test_refusals_are_known_here_too() -> None:
    assert looks_like_refusal("I'm sorry, but I can't help with that.")
