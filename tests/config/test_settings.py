import traceback

import pytest

from config.errors import RecipeError
from config.settings import Budget, Endpoint, Settings, check_prices, load_settings


def test_the_environment_wins_over_the_file(tmp_path, monkeypatch):
    path = tmp_path / "settings.yaml"
    path.write_text(
        "captioner: {base_url: 'http://file/v1', concurrency: 7}\nbudget: {dollars: 5}\n"
    )
    monkeypatch.setenv("VISPREF_CAPTIONER__BASE_URL", "http://environment/v1")
    settings = load_settings(path)
    assert settings.captioner.base_url == "http://environment/v1"
    assert settings.captioner.concurrency == 7
    assert settings.budget.dollars == 5


def test_a_key_is_in_no_representation(monkeypatch):
    monkeypatch.setenv("VISPREF_CLAIMS__API_KEY", "sk-very-secret")
    settings = load_settings()
    assert settings.claims.api_key.get_secret_value() == "sk-very-secret"
    assert "very-secret" not in repr(settings)
    assert "very-secret" not in settings.model_dump_json()


def test_a_wrong_value_is_named(monkeypatch):
    monkeypatch.setenv("VISPREF_REFERENCE__CONCURRENCY", "many")
    with pytest.raises(RecipeError, match=r"reference\.concurrency"):
        load_settings()


def test_an_unknown_key_in_the_file_is_refused(tmp_path):
    path = tmp_path / "settings.yaml"
    path.write_text("captoner: {}\n")
    with pytest.raises(RecipeError, match="captoner"):
        load_settings(path)


def shown_with_causes(error):
    return "".join(traceback.format_exception(error))


@pytest.mark.parametrize(
    "text",
    [
        "claims: {api_kye: sk-very-secret}",
        "claims: {api_key: [sk-very-secret]}",
        "claims: {api_key: 'sk-very-secret}\nx: [",
        "- sk-very-secret",
        "claims: {base_url: 'https://user:sk-very-secret@host/v1'}",
        "claims: {base_url: 'https://host/v1?key=sk-very-secret'}",
        "claims: {image_url_prefix: 'https://host/v1?sig=sk-very-secret'}",
        "claims: {base_url: 'sk-very-secret'}",
        "claims: {base_url: 'http://[sk-very-secret'}",
    ],
)
def test_no_error_shows_a_key_nor_has_one_behind_it(tmp_path, text):
    path = tmp_path / "settings.yaml"
    path.write_text(text)
    with pytest.raises(RecipeError) as refused:
        load_settings(path)
    assert "very-secret" not in shown_with_causes(refused.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("VISPREF_CLAIMS", "{'api_key': 'sk-very-secret'"),
        ("VISPREF_CLAIMS__APIKEY", "sk-very-secret"),
    ],
)
def test_a_broken_environment_is_a_clear_error_without_the_key(monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    with pytest.raises(RecipeError, match="claims") as refused:
        load_settings()
    assert "very-secret" not in shown_with_causes(refused.value)


def test_a_misspelt_variable_is_refused_and_not_ignored(monkeypatch):
    monkeypatch.setenv("VISPREF_BUGDET__DOLLARS", "5")
    with pytest.raises(RecipeError, match=r"VISPREF_BUGDET__DOLLARS.*did you mean VISPREF_BUDGET"):
        load_settings()


def test_a_budget_in_dollars_that_nothing_counts_against_is_refused():
    budget = Budget(dollars=5)
    with pytest.raises(RecipeError, match="PRICE_IN"):
        check_prices(Settings(budget=budget))
    assert check_prices(Settings(budget=budget, claims=Endpoint(price_out=1))) == [
        "captioner",
        "reference",
    ]
    assert check_prices(Settings()) == []
