"""The documentation is held against the code."""

import re
import shlex
import tomllib
from pathlib import Path
from xml.etree import ElementTree

import duckdb
import pytest
import typer.main

from cli.main import app
from config.recipe import recipe_names
from config.settings import ROLES, Settings
from storage.catalog import query, read_current, views
from storage.root import Root
from storage.tables import Tables

REPOSITORY = Path(__file__).parents[1]
README = (REPOSITORY / "README.md").read_text(encoding="utf-8")
ARCHITECTURE = (REPOSITORY / "ARCHITECTURE.md").read_text(encoding="utf-8")
CHANGELOG = (REPOSITORY / "CHANGELOG.md").read_text(encoding="utf-8")
PYPROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))
COMMANDS = typer.main.get_command(app).commands


def code_blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def shell_lines():
    for block in code_blocks("sh"):
        yield from block.replace("\\\n", " ").splitlines()


def prose():
    """The text without its code blocks, whose fences would pair with a line's backticks."""
    return re.sub(r"^```.*?^```", "", README, flags=re.MULTILINE | re.DOTALL)


def cells(heading):
    """The first cells of the table whose header starts with `heading`, as the names in them."""
    rows = README.split(f"| {heading} |", 1)[1].split("\n\n", 1)[0].splitlines()[2:]
    return [name for row in rows for name in re.findall(r"`([^`]+)`", row.split("|")[1])]


def training_recipes():
    return {path.stem for path in (REPOSITORY / "train" / "recipes").glob("*.yaml")}


LINES = [line for line in shell_lines() if line.startswith("vispref ")]


@pytest.mark.parametrize("line", LINES)
def test_a_command_in_the_readme_parses(line):
    _, name, *arguments = shlex.split(line, comments=True)
    command = COMMANDS[name]
    context = command.make_context(name, arguments)  # refuses unknown options and missing values
    given = {key for key, value in context.params.items() if value not in (None, (), [])}
    assert "root" in given or name in {"up", "down"}
    known = training_recipes() if name == "train" else recipe_names()
    if context.params.get("recipe") and not context.params["recipe"].endswith(".yaml"):
        assert context.params["recipe"] in known


def test_every_command_is_shown():
    without_a_root = {"demo", "experiment"}
    assert {line.split()[1] for line in LINES} == set(COMMANDS) - without_a_root
    assert without_a_root <= set(COMMANDS)
    assert "`vispref experiment`" in README


def test_commands_and_options_named_in_passing_exist():
    spans = re.findall(r"`([^`\n]+)`", prose() + CHANGELOG)
    named = {span.split()[1] for span in spans if re.match(r"vispref [a-z]", span)}
    assert named <= set(COMMANDS)
    options = {span.split()[0] for span in spans if span.startswith("--")}
    known = {o for command in COMMANDS.values() for p in command.params for o in p.opts}
    assert options
    assert options <= known, options - known


def test_every_make_target_named_exists():
    makefile = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    named = set(re.findall(r"\bmake ([a-z-]+)", "\n".join(shell_lines())))
    named |= set(re.findall(r"`make ([a-z-]+)`", README))
    assert {"demo", "test"} <= named
    assert named <= set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))


def test_every_extra_named_exists():
    named = re.search(r"'\.\[([a-z0-9,]+)\]'", README)
    assert named
    assert set(named[1].split(",")) <= set(PYPROJECT["project"]["optional-dependencies"])


def setting_names(model, prefix="VISPREF_"):
    for name, field in model.model_fields.items():
        inner = field.annotation
        if hasattr(inner, "model_fields"):
            yield from setting_names(inner, f"{prefix}{name.upper()}__")
        else:
            yield f"{prefix}{name.upper()}"


def of_each_role(name):
    if "_ROLE_" not in name:
        return {name}
    return {name.replace("_ROLE_", f"_{role.upper()}_") for role in ROLES}


def test_every_variable_in_the_readme_is_a_setting():
    written = re.findall(r"VISPREF_[A-Z_]+[A-Z]", README)
    expanded = {name for short in written for name in of_each_role(short)}
    known = set(setting_names(Settings))
    assert expanded
    assert expanded <= known, expanded - known


def test_the_table_of_settings_is_complete():
    listed, section = set(), ""
    for name in cells("variable"):
        if name.startswith("__"):
            listed |= of_each_role(section + name)
        else:
            section = name.rpartition("__")[0]
            listed |= of_each_role(name)
    assert listed == set(setting_names(Settings))


def test_the_example_queries_run(tmp_path):
    statements = [
        statement.query
        for block in code_blocks("sql")
        for statement in duckdb.extract_statements(block)
    ]
    assert len(statements) >= 5
    for statement in statements:
        assert query(Root(tmp_path), statement).num_columns > 0


def test_every_view_is_in_the_table(tmp_path):
    root = Root(tmp_path)
    with Tables(root) as tables:
        made = set(views(root, tables, read_current(root)))
    current = {name for name in made if not name.startswith("history.")}
    assert set(cells("view")) == current | {"history.*"}


def test_the_code_map_is_the_disk():
    mapped = set(re.findall(r"^\| `([a-z]+)/`", ARCHITECTURE, re.MULTILINE))
    missing = {name for name in mapped if not (REPOSITORY / name).is_dir()}
    assert not missing
    packages = {path.parent.name for path in REPOSITORY.glob("[a-z]*/*.py")}
    assert packages <= mapped, packages - mapped


def test_the_layers_are_those_the_linter_holds():
    contracts = PYPROJECT["tool"]["importlinter"]["contracts"]
    layers = next(contract["layers"] for contract in contracts if contract["type"] == "layers")
    assert " -> ".join(layers) in ARCHITECTURE


def test_files_named_in_the_architecture_exist():
    named = set(re.findall(r"`([a-z]+/[a-z_]+\.py)`", ARCHITECTURE))
    assert named
    assert {name for name in named if not (REPOSITORY / name).is_file()} == set()


def test_links_lead_somewhere():
    for text in (README, ARCHITECTURE):
        for target in re.findall(r"\]\(([^)]+)\)", text):
            assert target.startswith("http") or (REPOSITORY / target).exists(), target


def test_the_picture_is_well_formed_and_names_every_stage():
    picture = ElementTree.parse(REPOSITORY / "docs" / "pipeline.svg").getroot()
    words = {(element.text or "").strip() for element in picture.iter()}
    named = re.findall(r"^\| `([a-z_]+)` \|", ARCHITECTURE, re.MULTILINE)
    assert len(named) == 10
    assert {name.split("_")[0] for name in named} <= words


def test_the_changelog_has_this_version():
    assert f"## [{PYPROJECT['project']['version']}]" in CHANGELOG
