"""prefect.yaml: what a user of the UI finds. The flows' forms are held against the recipes."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest
import yaml

from config.recipe import load_recipe

REPOSITORY = Path(__file__).parents[2]
FILE = yaml.safe_load((REPOSITORY / "prefect.yaml").read_text(encoding="utf-8"))
DEPLOYMENTS = {deployment["name"]: deployment for deployment in FILE["deployments"]}
USERS = {"symmpo", "blind", "retry-failed", "train", "experiment", "maintenance"}


def flow_of(deployment):
    path, name = deployment["entrypoint"].split(":")
    return getattr(importlib.import_module(path.removesuffix(".py").replace("/", ".")), name)


def schema_of(name):
    from prefect.utilities.callables import parameter_schema

    return parameter_schema(flow_of(DEPLOYMENTS[name]))


def test_everything_a_user_does_is_a_deployment():
    assert set(DEPLOYMENTS) == USERS


@pytest.mark.parametrize("name", sorted(USERS))
def test_a_deployment_says_what_it_is_and_can_be_scheduled(name):
    deployment = DEPLOYMENTS[name]
    assert len(deployment["description"]) > 30
    assert "vispref" in deployment["tags"]
    assert deployment["work_pool"]["name"] == ("vispref-gpu" if name == "train" else "vispref-cpu")
    assert [s["active"] for s in deployment["schedules"]] == [False]


@pytest.mark.parametrize("name", sorted(USERS))
def test_the_parameters_fit_the_flow_and_each_has_help(name):
    flow = flow_of(DEPLOYMENTS[name])
    flow.validate_parameters(DEPLOYMENTS[name]["parameters"])
    properties = schema_of(name).properties
    assert [key for key, value in properties.items() if not value.get("description")] == []


def test_the_form_starts_with_the_paper_s_recipe():
    given = schema_of("symmpo").properties["recipe"]["default"]
    assert given == load_recipe("symmpo").model_dump(mode="json")
    assert given["resample"]["k"] == 10


def test_the_blind_deployment_is_the_blind_recipe():
    given = DEPLOYMENTS["blind"]["parameters"]["recipe"]
    assert given == load_recipe("blind").model_dump(mode="json")


def walked(schema):
    """(path, property) of every field of the form's models."""
    for model, found in schema.definitions.items():
        for name, value in found.get("properties", {}).items():
            yield f"{model}.{name}", value


def test_the_form_has_choices_and_bounds():
    fields = dict(walked(schema_of("symmpo")))
    assert fields["Mine.strategy"]["enum"] == ["nearest", "blind"]
    assert (fields["Resample.k"]["minimum"], fields["Resample.k"]["maximum"]) == (1, 64)
    assert fields["TrainAfter.max_drop_rate"]["maximum"] == 1
    retry = schema_of("retry-failed").definitions
    assert "InvalidAnswer" in retry["ErrorClass"]["enum"]
    assert retry["Stage"]["enum"] == ["any", "caption", "resample", "extract", "rewrite"]


def test_no_field_of_a_form_takes_a_key():
    names = {path.rsplit(".", 1)[1] for name in USERS for path, _ in walked(schema_of(name))}
    assert not any("key" in name and name != "api_key_block" for name in names)
