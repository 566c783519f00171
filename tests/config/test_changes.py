import pytest
from pydantic import SecretStr, ValidationError

from config.changes import Changes
from config.settings import Budget, Endpoint, Settings


@pytest.fixture
def settings():
    claims = Endpoint(base_url="https://claims.example/v1", api_key=SecretStr("sk-1"), price_in=2.0)
    return Settings(claims=claims, budget=Budget(dollars=5, tokens=100))


def changed(settings, **claims):
    return Changes.model_validate({"claims": claims}).applied(settings)


def test_nothing_given_changes_nothing(settings):
    assert Changes().applied(settings) == settings


def test_what_is_given_changes_and_the_rest_stays(settings):
    found = changed(settings, concurrency=3, max_tries=2)
    assert (found.claims.concurrency, found.claims.max_tries) == (3, 2)
    assert found.claims.price_in == 2.0
    assert found.claims.api_key == SecretStr("sk-1")
    assert found.captioner == settings.captioner


def test_a_budget_is_changed_in_parts(settings):
    found = Changes.model_validate({"budget": {"dollars": 9}}).applied(settings)
    assert found.budget == Budget(dollars=9, tokens=100)


@pytest.mark.parametrize(
    "elsewhere",
    ["https://other.example/v1", "http://claims.example/v1", "https://claims.example:8443/v1"],
)
def test_a_key_is_not_sent_to_another_host(settings, elsewhere):
    assert changed(settings, base_url=elsewhere).claims.api_key is None


def test_a_key_goes_on_to_another_path_of_its_host(settings):
    found = changed(settings, base_url="https://claims.example/v2")
    assert found.claims.api_key == SecretStr("sk-1")


def test_a_named_block_takes_the_place_of_the_key(settings):
    found = changed(settings, base_url="https://other.example/v1", api_key_block="other")
    assert (found.claims.api_key, found.claims.api_key_block) == (None, "other")


def test_a_bad_url_is_refused(settings):
    with pytest.raises(ValidationError, match="http://"):
        changed(settings, base_url="ftp://claims.example")


def test_a_key_itself_is_no_field():
    with pytest.raises(ValidationError) as refused:
        Changes.model_validate({"claims": {"api_key": "sk-secret"}})
    assert "sk-secret" not in str(refused.value)
