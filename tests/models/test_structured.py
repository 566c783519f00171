import json
import sys
from pathlib import Path

import pytest
from pydantic import BaseModel

from config.errors import (
    EmptyAnswer,
    InvalidAnswer,
    RefusedAnswer,
    RequestRejected,
    TruncatedAnswer,
)
from miniature.server import StandInServer
from models.structured import ask_structured
from storage.responses import ResponseCache

sys.path.insert(0, str(Path(__file__).parent))
from chat_helpers import make_client, rewrite_request


class Rewrite(BaseModel):
    chosen: str | None
    rejected: str | None


@pytest.fixture
async def ask(tmp_path):
    """ask(faults, max_asks) -> the structured answer; calls counts what the server served."""
    cache = ResponseCache(tmp_path)
    with StandInServer() as server:
        client = make_client(server.base_url, cache)

        async def run(*faults, max_asks=3, check=None, **changes):
            server.set_faults(list(faults))
            return await ask_structured(
                client, rewrite_request(**changes), Rewrite, max_asks=max_asks, check=check
            )

        run.server, run.client = server, client
        yield run
        await client.aclose()
    cache.close()


async def test_prose_around_the_object_is_stripped_without_another_call(ask):
    found = await ask("prose_around_json:1")
    assert found.value.chosen == "There is a dog 0."
    assert len(found.answers) == 1


@pytest.mark.parametrize("fault", ["truncated_json", "empty", "refusal"])
async def test_a_bad_answer_is_asked_again_with_what_was_wrong(ask, fault):
    found = await ask(f"{fault}:1")
    assert found.value.chosen == "There is a dog 0."
    assert len(found.answers) == 2
    assert ask.server.stats()["calls"] == 2


@pytest.mark.parametrize(
    ("fault", "kind"),
    [("truncated_json", InvalidAnswer), ("empty", EmptyAnswer), ("refusal", RefusedAnswer)],
)
async def test_after_the_last_ask_the_row_fails_with_its_raw_text_and_cost(ask, fault, kind):
    with pytest.raises(kind, match="asked 2 times") as failed:
        await ask(f"{fault}=1", max_asks=2)
    assert failed.value.attempts == 2
    assert failed.value.spent.calls == 2
    assert failed.value.spent.prompt_tokens > 0
    assert failed.value.raw_text is not None


async def test_a_value_that_fails_the_check_is_asked_again(ask):
    asked = []

    def check(value):
        asked.append(value)
        if len(asked) == 1:
            raise ValueError("chosen must speak of cats")

    found = await ask(check=check)
    assert len(found.answers) == 2


async def test_an_answer_cut_at_the_token_limit_is_no_answer(ask):
    with pytest.raises(TruncatedAnswer, match="cut off at the token limit"):
        await ask(max_asks=1, max_tokens=3)


async def test_what_was_paid_once_is_not_paid_again(ask):
    await ask("truncated_json:1")
    before = ask.server.stats()["calls"]
    found = await ask()
    assert ask.server.stats()["calls"] == before
    assert [answer.cached for answer in found.answers] == [True, True]
    assert json.loads(found.answers[-1].text)["chosen"]


async def test_what_the_first_ask_cost_stands_on_a_row_whose_second_ask_is_refused(ask):
    ask.server.set_faults(["truncated_json:1"])
    client = ask.client

    class Rejecting:
        async def ask(self, request):
            if len(request.messages) > 2:
                raise RequestRejected("too long for the model", attempts=1)
            return await client.ask(request)

    with pytest.raises(RequestRejected, match="too long") as failed:
        await ask_structured(Rejecting(), rewrite_request(), Rewrite, max_asks=3)
    assert failed.value.attempts == 2
    assert failed.value.spent.calls == 1
    assert failed.value.spent.prompt_tokens > 0
    assert failed.value.raw_text
