import pytest

from config.errors import RecipeError
from config.settings import load_settings


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
