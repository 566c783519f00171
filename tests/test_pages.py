"""The pages under docs/: their commands are run, in order, as a reader would; what they quote exists."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.operate.machine_helpers import Machine, free_port

REPOSITORY = Path(__file__).parents[1]
DOCS = REPOSITORY / "docs"
PAGES = sorted(path.name for path in DOCS.glob("*.md"))
RUN_S = 900


def blocks(page, language):
    text = (DOCS / page).read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def test_there_is_a_page_for_everything_an_operator_asks():
    assert PAGES == [
        "costs.md", "operate.md", "prompts.md", "recipes.md", "scale-out.md", "troubleshooting.md",
    ]  # fmt: skip


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    text = (DOCS / page).read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", text):
        assert (DOCS / target).resolve().exists(), target


def code():
    folders = ("cli", "config", "curation", "flows", "models", "operate", "prompts", "sources")
    folders += ("stages", "storage", "tasks", "train")
    files = [path for folder in folders for path in (REPOSITORY / folder).rglob("*.py")]
    text = "".join(path.read_text(encoding="utf-8") for path in files)
    # Messages stand in several literals; a name in braces is a value.
    return re.sub(r'"\s*\n\s*f?"', "", text)


def test_every_message_in_troubleshooting_is_said_somewhere():
    text = (DOCS / "troubleshooting.md").read_text(encoding="utf-8")
    quoted = re.findall(r"^\*\*([^*]+)\*\*", text, re.MULTILINE)
    known = code()
    of_prefect = {"database is locked"}
    missing = [
        message
        for message in quoted
        if message not in of_prefect
        and not all(part in known for part in re.split(r"\.\.\.|: ", message) if part.strip())
    ]
    assert len(quoted) > 15
    assert missing == []


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    from miniature.annotations import load_annotations
    from miniature.scenes import write_world
    from miniature.server import StandInServer

    world = tmp_path_factory.mktemp("pages-world")
    write_world(world, 12, seed=3)
    with StandInServer(load_annotations(world / "annotations.jsonl")) as server:
        yield world, server


@pytest.fixture
def reader(made, checkpoints, tmp_path):
    """run(page) -> the finished shell in which a reader ran the page's commands.

    The reader's /data is a folder of this test; the recipe's models are the stand-in's.
    """
    world, server = made
    shutil.copytree(world / "images", tmp_path / "images")
    shutil.copy(world / "prompts.jsonl", tmp_path / "pairs.jsonl")
    recipe = {
        "name": "mine",
        "embed": {"clip_model": str(checkpoints[0]), "dino_model": str(checkpoints[1])},
        "mine": {"near_duplicate": 0.99999},
        "caption": {"model": "stand-in-captioner"},
        "resample": {"model": "stand-in-reference", "k": 2},
        "extract": {"model": "stand-in-claims"},
        "rewrite": {"model": "stand-in-claims"},
    }
    (tmp_path / "my-recipe.yaml").write_text(yaml.safe_dump(recipe))
    port = free_port()
    environment = {
        **Machine(tmp_path).environment,
        "HOME": str(tmp_path),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "RECIPE": json.dumps(recipe),
        "PREFECT_CLI_PROMPT": "false",
        "VISPREF_CLAIMS__PRICE_IN": "0.27",
        "VISPREF_CLAIMS__PRICE_OUT": "1.10",
        "VISPREF_RUNS_DIR": str(tmp_path / "runs"),
    }
    for role in ("CAPTIONER", "REFERENCE", "CLAIMS"):
        environment[f"VISPREF_{role}__BASE_URL"] = server.base_url

    def run(page):
        script = "\n".join(blocks(page, "sh")).replace("/data/", f"{tmp_path}/data/")
        script = script.replace("pairs.jsonl", f"{tmp_path}/pairs.jsonl")
        script = script.replace("vispref up", f"vispref up --port {port}").replace(
            "4200", str(port)
        )
        return subprocess.run(
            ["bash", "-euo", "pipefail", "-c", script],
            cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=RUN_S,
            check=False,
        )  # fmt: skip

    yield run
    # A page whose commands failed midway has not come to its own `down`.
    subprocess.run(["vispref", "down"], cwd=tmp_path, env=environment, check=False, timeout=RUN_S)


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "sh")])
def test_the_commands_of_a_page_run(reader, page):
    done = reader(page)
    assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
