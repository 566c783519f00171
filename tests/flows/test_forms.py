import pytest
from pydantic import ValidationError

from flows.forms import Input
from sources.spec import InputSpec


def test_an_input_is_the_one_of_the_command_line():
    form = Input(location="/data/in.jsonl", prompts=["What?"], columns={"prompt": "question"})
    assert form.spec() == InputSpec(
        location="/data/in.jsonl", prompts=("What?",), columns={"prompt": "question"}
    )


def test_every_field_of_an_input_is_in_the_form():
    assert set(Input.model_fields) == set(InputSpec.__dataclass_fields__)


def test_an_unknown_field_is_refused():
    with pytest.raises(ValidationError):
        Input(location="/data", folder="/data")
