"""The compose file: what holds without Docker, and what Compose itself says of each profile."""

import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml

REPOSITORY = Path(__file__).parents[2]
TEXT = (REPOSITORY / "docker-compose.yml").read_text(encoding="utf-8")
COMPOSE = yaml.safe_load(TEXT)
SERVICES = COMPOSE["services"]
EXAMPLE = (REPOSITORY / ".env.example").read_text(encoding="utf-8")
VERSION = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"][
    "version"
]
PROFILES = ["full", "small", "small-reference", "hosted", "train"]
NEEDED = {
    "POSTGRES_PASSWORD": "a password",
    "PREFECT_AUTH_STRING": "user:password",
    "VISPREF_CLAIMS__BASE_URL": "http://claims.example/v1",
}
SECRET = re.compile(r"PASSWORD|AUTH_STRING|API_KEY$|TOKEN$")


def environments():
    for service in SERVICES.values():
        yield from (service.get("environment") or {}).items()


def read_names():
    """The variables Compose takes from its environment: those in ${} and those without a value."""
    substituted = set(re.findall(r"\$\{([A-Z_]+)", TEXT))
    return substituted | {name for name, value in environments() if value is None}


def compose_command():
    if shutil.which("docker-compose"):
        return ["docker-compose"]
    if shutil.which("docker"):
        found = subprocess.run(["docker", "compose", "version"], capture_output=True, check=False)
        if found.returncode == 0:
            return ["docker", "compose"]
    return pytest.skip("neither docker-compose nor docker compose is installed")


def run_compose(tmp_path, env_text, *arguments):
    """`config` reads the file and substitutes; it needs no Docker engine."""
    env_file = tmp_path / "values.env"
    env_file.write_text(env_text, encoding="utf-8")
    command = [*compose_command(), "--env-file", str(env_file), *arguments]
    ours = set(read_names())
    environment = {k: v for k, v in os.environ.items() if k not in ours}
    return subprocess.run(
        command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False
    )


def filled(*, without=()):
    text = EXAMPLE
    for name, value in NEEDED.items():
        if name not in without:
            text = re.sub(rf"^{name}=$", f"{name}={value}", text, flags=re.MULTILINE)
    return text


@pytest.mark.parametrize("profile", PROFILES)
def test_compose_accepts_the_file_with_a_filled_example(tmp_path, profile):
    done = run_compose(tmp_path, filled(), "--profile", profile, "config")
    assert done.returncode == 0, done.stderr
    worker = yaml.safe_load(done.stdout)["services"]["worker-cpu"]["environment"]
    assert worker["VISPREF_CLAIMS__BASE_URL"] == NEEDED["VISPREF_CLAIMS__BASE_URL"]
    # What was not set stays unset: an empty number would be refused by the settings.
    assert worker.get("VISPREF_BUDGET__DOLLARS") is None


@pytest.mark.parametrize("name", NEEDED)
def test_compose_refuses_to_start_without(tmp_path, name):
    done = run_compose(tmp_path, filled(without=[name]), "config")
    assert done.returncode != 0
    assert "set it in .env" in done.stderr


def test_every_needed_value_is_empty_in_the_example():
    given = dict(re.findall(r"^([A-Z_]+)=(.*)$", EXAMPLE, re.MULTILINE))
    assert {name for name, value in given.items() if value == ""} == set(NEEDED)
    for name in NEEDED:
        assert not re.search(rf"\$\{{{name}(?!:\?)", TEXT), f"{name} is read without :?"


def test_the_example_names_every_variable_and_nothing_else():
    named = re.findall(r"^#?([A-Z][A-Z_]+)=", EXAMPLE, re.MULTILINE)
    assert len(named) == len(set(named))
    assert set(named) == read_names()


def test_no_secret_has_a_value_here():
    found = dict(environments())
    assert {name for name in found if SECRET.search(name)} >= {"POSTGRES_PASSWORD", "HF_TOKEN"}
    for name, value in found.items():
        if SECRET.search(name):
            assert value is None or re.fullmatch(r"\$\{[A-Z_]+:\?[^}]+\}", value), name
    for name, value in re.findall(r"^#?([A-Z_]+)=(.*)$", EXAMPLE, re.MULTILINE):
        assert not (SECRET.search(name) and value), name


def test_ports_are_published_on_loopback_unless_told_otherwise():
    published = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert published
    for port in published:
        assert port.startswith("${VISPREF_BIND:-127.0.0.1}:")
    assert not any(service.get("network_mode") == "host" for service in SERVICES.values())


def test_images_are_pinned():
    for name, service in SERVICES.items():
        image, _, tag = service["image"].partition(":")
        assert re.search(r"\d+\.\d+", tag), name
        assert "." not in image.split("/")[0], f"{name}: an image of a fixed registry"
        if image.startswith("vispref"):
            assert tag == VERSION
            assert service["build"]["target"] == image.removeprefix("vispref-")
    constraints = (REPOSITORY / "constraints.txt").read_text(encoding="utf-8")
    server = SERVICES["prefect-server"]["image"].rpartition(":")[2].split("-")[0]
    assert f"prefect=={server}\n" in constraints


def test_every_service_that_stays_has_a_health_check_and_comes_back():
    assert SERVICES["deploy"]["restart"] == "no"
    for name, service in SERVICES.items():
        if name == "deploy":
            continue
        assert service["healthcheck"]["test"][0] in ("CMD", "CMD-SHELL"), name
        assert service["restart"] == "unless-stopped", name


def test_the_server_asks_for_the_password_that_clients_send():
    server = SERVICES["prefect-server"]["environment"]
    expected = server["PREFECT_SERVER_API_AUTH_STRING"]
    assert expected.startswith("${PREFECT_AUTH_STRING:?")
    for name in ("prefect-server", "deploy", "worker-cpu", "worker-gpu"):
        assert SERVICES[name]["environment"]["PREFECT_API_AUTH_STRING"] == expected


def test_every_volume_is_declared_and_the_model_servers_only_read_data():
    for name, service in SERVICES.items():
        for volume in service.get("volumes", []):
            source = re.sub(r"^\$\{[A-Z_]+:-([a-z]+)\}", r"\1", volume).split(":")[0]
            assert source in COMPOSE["volumes"], f"{name}: {volume}"
        if service["image"].startswith("vllm/"):
            assert "${DATA_DIR:-data}:/data:ro" in service["volumes"]


def test_model_servers_serve_what_their_name_says():
    recipe = yaml.safe_load((REPOSITORY / "config/recipes/symmpo.yaml").read_text("utf-8"))
    served = {}
    for name, service in SERVICES.items():
        if service["image"].startswith("vllm/"):
            options = dict(
                part.removeprefix("--").partition("=")[::2] for part in service["command"]
            )
            assert options["model"] == options["served-model-name"]
            assert options["allowed-local-media-path"] == "/data"
            served[name] = options["model"]
    assert served["captioner"] == recipe["caption"]["model"]
    assert served["reference"] == served["reference-small"] == recipe["resample"]["model"]


def test_the_image_holds_no_secret_and_runs_as_no_root():
    dockerfile = (REPOSITORY / "Dockerfile").read_text(encoding="utf-8")
    assert not SECRET.search("\n".join(re.findall(r"^(?:ENV|ARG) .*", dockerfile, re.MULTILINE)))
    stages = dict(
        re.findall(r"^FROM .* AS (cpu|gpu)$((?:\n(?!FROM).*)*)", dockerfile, re.MULTILINE)
    )
    assert set(stages) == {"cpu", "gpu"}
    for stage in stages.values():
        assert "\nUSER vispref\n" in stage
    assert re.search(r"^FROM python:3\.11\.\d+-slim-bookworm AS base$", dockerfile, re.MULTILINE)


def test_only_named_files_go_into_the_image():
    lines = (REPOSITORY / ".dockerignore").read_text(encoding="utf-8").splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]
    assert rules[0] == "*"
    let_in = {rule[1:] for rule in rules if rule.startswith("!")}
    packages = {path.parent.name for path in REPOSITORY.glob("[a-z]*/__init__.py")}
    assert packages - {"tests", "benchmarks"} <= let_in
    assert not any(name.startswith(".") for name in let_in)
