"""Checks of `vispref doctor` against good and broken set-ups, without Prefect."""

import asyncio
import socket
import sqlite3
from types import SimpleNamespace

import pytest
from pydantic import SecretStr

from config.recipe import load_recipe
from config.settings import Endpoint, Settings
from operate import check_machine
from operate.check_endpoints import check_endpoint, check_endpoints, wanted_models
from operate.check_machine import check_cache, check_gpus, check_places
from operate.doctor import _guarded
from storage.root import Root

KEY = "sk-top-secret"


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def only(findings):
    (finding,) = findings
    return finding


@pytest.fixture
def keyed(world):
    """The stand-in server, which wants a key."""
    from miniature.annotations import load_annotations
    from miniature.server import StandInServer

    annotations = load_annotations(world / "annotations.jsonl")
    with StandInServer(annotations, api_key=KEY) as found:
        yield found


def test_an_endpoint_that_serves_the_model_is_well(server):
    finding = only(
        check_endpoint("claims", Endpoint(base_url=server.base_url), ["stand-in-claims"])
    )
    assert finding.level == "ok"
    assert "serves stand-in-claims" in finding.found


def test_a_model_that_is_not_served_is_named_with_those_that_are(server):
    finding = only(check_endpoint("captioner", Endpoint(base_url=server.base_url), ["other/model"]))
    assert finding.level == "fail"
    assert "not other/model" in finding.found
    assert "stand-in-captioner" in finding.found
    assert "--served-model-name" in finding.remedy


def test_an_endpoint_that_is_not_there_is_named(server):
    url = f"http://127.0.0.1:{free_port()}/v1"
    finding = only(check_endpoint("claims", Endpoint(base_url=url), []))
    assert finding.level == "fail"
    assert url in finding.found
    assert "Connection refused" in finding.found


def test_a_server_that_lists_nothing_at_that_place(server):
    finding = only(check_endpoint("claims", Endpoint(base_url=server.base_url + "/v2"), []))
    assert finding.level == "warn"
    assert "HTTP 404" in finding.found
    assert "/v1" in finding.remedy


def test_no_endpoint_is_a_warning_with_the_variable(server):
    finding = only(check_endpoint("reference", Endpoint(), []))
    assert finding.level == "warn"
    assert "VISPREF_REFERENCE__BASE_URL" in finding.remedy


@pytest.mark.parametrize(
    ("key", "level", "words"),
    [(None, "fail", "no key is set"), ("sk-wrong", "fail", "the key is refused"), (KEY, "ok", "")],
)
def test_a_key_is_asked_for_where_the_server_does_and_never_shown(keyed, key, level, words):
    secret = None if key is None else SecretStr(key)
    finding = only(check_endpoint("claims", Endpoint(base_url=keyed.base_url, api_key=secret), []))
    assert finding.level == level
    assert words in finding.found
    assert KEY not in repr(finding)
    assert "sk-wrong" not in repr(finding)


def test_every_role_is_asked_for_the_recipes_model(server):
    recipe = load_recipe("symmpo", {})
    role = Endpoint(base_url=server.base_url)
    settings = Settings(captioner=role, reference=role, claims=role)
    findings = asyncio.run(check_endpoints(settings, recipe))
    assert [finding.what for finding in findings] == ["captioner", "reference", "claims"]
    for finding, models in zip(findings, wanted_models(recipe).values(), strict=True):
        assert finding.level == "fail"
        assert all(model in finding.found for model in models)


def test_places_with_room_pass_and_full_ones_fail(tmp_path, monkeypatch):
    settings = Settings(cache_dir=tmp_path / "not" / "yet", scratch_dir=tmp_path)
    root = Root(tmp_path / "set")
    sizes = SimpleNamespace(free=100 * check_machine.GB)
    monkeypatch.setattr(check_machine.shutil, "disk_usage", lambda _: sizes)
    assert [f.level for f in check_places(settings, root)] == ["ok", "ok", "ok"]
    sizes.free = 10 * check_machine.GB
    assert {f.level for f in check_places(settings, root)} == {"warn"}
    sizes.free = check_machine.GB
    assert {f.level for f in check_places(settings, root)} == {"fail"}


def test_a_place_under_a_file_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    settings = Settings(cache_dir=tmp_path / "file" / "cache", scratch_dir=tmp_path)
    levels = {finding.what: finding.level for finding in check_places(settings, None)}
    assert levels["cache"] == "fail"


def test_the_cache_opens_or_says_why_not(tmp_path):
    assert check_cache(Settings(cache_dir=tmp_path)).level == "ok"
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "responses.sqlite").write_bytes(b"no database at all, but long enough" * 40)
    finding = check_cache(Settings(cache_dir=broken))
    assert finding.level == "fail"
    assert "VISPREF_CACHE_DIR" in finding.remedy
    with pytest.raises(sqlite3.DatabaseError):
        sqlite3.connect(broken / "responses.sqlite").execute("SELECT * FROM answers")


@pytest.mark.parametrize(
    ("gpus", "torch", "level", "words"),
    [
        ([], ["2.13.0", "13.0", False], "warn", "CPU, slowly"),
        (["H100, 80 GB"], ["2.13.0", "13.0", True], "ok", ""),
        (["H100, 80 GB"], ["2.13.0", "13.0", False], "fail", "update the driver"),
        (["H100, 80 GB"], ["2.13.0+cpu", None, False], "fail", "extra gpu"),
    ],
)
def test_a_gpu_that_torch_does_not_see_is_told_with_the_reason(
    monkeypatch, gpus, torch, level, words
):
    monkeypatch.setattr(check_machine, "gpu_names", lambda: gpus)
    monkeypatch.setattr(check_machine, "_imported", lambda _: torch)
    finding = only(check_gpus())
    assert finding.level == level
    assert words in finding.remedy


def test_a_package_that_does_not_import_is_told_in_its_last_line():
    code = "raise RuntimeError('operator torchvision::nms does not exist')"
    with pytest.raises(check_machine.StorageError, match="torchvision::nms does not exist"):
        check_machine._imported(code)
    with pytest.raises(check_machine.StorageError, match="ended with code"):
        check_machine._imported("import os; os.abort()")


def test_a_check_that_breaks_is_a_finding():
    def broken():
        raise ZeroDivisionError("of all things")

    finding = only(_guarded("something", broken))
    assert finding.level == "fail"
    assert "ZeroDivisionError: of all things" in finding.found
