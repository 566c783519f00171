"""The documentation is held against the code."""

import re
from pathlib import Path

import pytest
import typer.main

from cli.main import app
from config.settings import Settings

REPOSITORY = Path(__file__).parents[1]
README = (REPOSITORY / "README.md").read_text()
ARCHITECTURE = (REPOSITORY / "ARCHITECTURE.md").read_text()
COMMANDS = typer.main.get_command(app).commands


@pytest.mark.parametrize("line", re.findall(r"^vispref [^\n]*", README, re.MULTILINE))
def test_every_command_in_the_readme_exists_with_its_options(line):
    command, *rest = line.split("#")[0].split()[1:]
    known = {option for parameter in COMMANDS[command].params for option in parameter.opts}
    assert {word for word in rest if word.startswith("--")} <= known


def test_every_command_is_in_the_readme():
    assert {name for name in COMMANDS if f"vispref {name}" not in README} <= {"demo"}
    assert "make demo" in README


def setting_names(model, prefix="VISPREF_"):
    for name, field in model.model_fields.items():
        inner = field.annotation
        if hasattr(inner, "model_fields"):
            yield from setting_names(inner, f"{prefix}{name.upper()}__")
        else:
            yield f"{prefix}{name.upper()}"


def test_every_variable_in_the_readme_is_a_setting():
    known = set(setting_names(Settings))
    written = set()
    for line in README.splitlines():
        whole = re.findall(r"VISPREF_[A-Z_]+[A-Z]", line)
        written.update(whole)
        prefix = re.match(r"\| `(VISPREF_[A-Z]+)__", line)
        if prefix:
            written.update(prefix[1] + short for short in re.findall(r"`(__[A-Z_]+)`", line))
    roles = ("CAPTIONER", "REFERENCE", "CLAIMS")
    expanded = {name.replace("_ROLE_", f"_{role}_") for name in written for role in roles}
    assert expanded
    assert expanded <= known, expanded - known


def test_the_code_map_is_the_disk():
    mapped = set(re.findall(r"^\| `([a-z]+)/`", ARCHITECTURE, re.MULTILINE))
    folders = {
        path.name
        for path in REPOSITORY.iterdir()
        if path.is_dir() and not path.name.startswith((".", "build", "demo", "vispref", "__"))
    }
    assert mapped == folders


def test_links_lead_somewhere():
    for text in (README, ARCHITECTURE):
        for target in re.findall(r"\]\(([^)]+)\)", text):
            assert target.startswith("http") or (REPOSITORY / target).exists(), target
