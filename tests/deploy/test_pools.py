"""The base job templates of Docker and Kubernetes work pools."""

import json
import re
import tomllib
from pathlib import Path

import jsonschema
import pytest
from prefect.client.schemas.actions import WorkPoolCreate

REPOSITORY = Path(__file__).parents[2]
KINDS = ["docker", "kubernetes"]


def template(kind):
    return json.loads((REPOSITORY / "deploy" / f"{kind}-pool.json").read_text(encoding="utf-8"))


def validator(kind):
    return jsonschema.Draft202012Validator(template(kind)["variables"])


def defaults(kind):
    fields = template(kind)["variables"]["properties"].items()
    return {name: field["default"] for name, field in fields if "default" in field}


@pytest.mark.parametrize("kind", KINDS)
def test_the_schema_is_one_and_its_defaults_satisfy_it(kind):
    jsonschema.Draft202012Validator.check_schema(template(kind)["variables"])
    errors = [error.message for error in validator(kind).iter_errors(defaults(kind))]
    assert errors == []


@pytest.mark.parametrize("kind", KINDS)
def test_every_placeholder_is_declared_and_every_variable_is_used(kind):
    configuration = json.dumps(template(kind)["job_configuration"])
    used = set(re.findall(r"\{\{ (\w+) \}\}", configuration))
    assert configuration.count("{{") == len(re.findall(r"\{\{ \w+ \}\}", configuration))
    assert used == set(template(kind)["variables"]["properties"])


@pytest.mark.parametrize("kind", KINDS)
def test_prefect_takes_it_for_a_pool(kind):
    WorkPoolCreate(name="pool", type=kind, base_job_template=template(kind))


@pytest.mark.parametrize("kind", KINDS)
def test_a_wrong_or_unknown_variable_is_refused(kind):
    assert validator(kind).is_valid({"image": "vispref-gpu:0.1.0"})
    assert not validator(kind).is_valid({"image": 3})
    assert not validator(kind).is_valid({"imgae": "vispref-gpu:0.1.0"})
    gpus = [{"driver": "nvidia", "count": -1, "capabilities": [["gpu"]]}]
    assert validator(kind).is_valid({"gpus": gpus if kind == "docker" else 2})
    assert not validator(kind).is_valid({"gpus": -1})


@pytest.mark.parametrize("kind", KINDS)
def test_the_defaults_are_this_versions_and_hold_no_key(kind):
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    found = defaults(kind)
    assert found["image"] == f"vispref-cpu:{project['version']}"
    assert found["env"]["PREFECT_FLOWS_HEARTBEAT_FREQUENCY"] == "30"
    assert not [name for name in found["env"] if "KEY" in name or "AUTH" in name]


def test_both_share_data_and_cache_between_runs():
    docker = {volume.rpartition(":")[2] for volume in defaults("docker")["volumes"]}
    pod = template("kubernetes")["job_configuration"]["job_manifest"]["spec"]["template"]["spec"]
    mounts = {mount["mountPath"] for mount in pod["containers"][0]["volumeMounts"]}
    assert {"/data", "/cache"} <= docker & mounts
