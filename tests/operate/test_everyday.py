"""What users do every day, through the UI's own API: trigger, see what failed, retry it by class,
complete, and training starts; then the pages themselves, in a browser."""

import json
import re
import shutil
from urllib.parse import unquote

import httpx
import pytest

from miniature.annotations import load_annotations
from miniature.faults import Fault
from miniature.server import StandInServer
from tests.operate.machine_helpers import REPOSITORY, Machine
from tests.operate.ui_helpers import Ui, small_recipe

pytestmark = pytest.mark.timeout(600)
KEY = "sk-top-secret-of-the-endpoint"
TRAINING = {
    "start": True,
    "min_rows": 4,
    "max_drop_rate": 0.7,
    "recipe": "miniature-symmpo",
    "overrides": ["optimiser.max_steps=2"],
    "evaluation": "miniature",
}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    from miniature.scenes import write_world

    world = tmp_path_factory.mktemp("everyday")
    write_world(world, 24, seed=3)
    with StandInServer(load_annotations(world / "annotations.jsonl"), api_key=KEY) as found:
        found.world = world
        yield found


@pytest.fixture(scope="module")
def machine(tmp_path_factory, server):
    folder = tmp_path_factory.mktemp("machine")
    roles = {}
    for role in ("CAPTIONER", "REFERENCE", "CLAIMS"):
        roles[f"VISPREF_{role}__BASE_URL"] = server.base_url
        roles[f"VISPREF_{role}__API_KEY"] = KEY
    made = Machine(folder, VISPREF_RUNS_DIR=str(folder / "runs"), **roles)
    made.folder = folder
    made.up()
    yield made
    made.command("down")


@pytest.fixture(scope="module")
def ui(machine):
    return Ui(machine.api)


@pytest.fixture(scope="module")
def recipe(checkpoints):
    return small_recipe(checkpoints)


@pytest.fixture(scope="module")
def first(ui, server, machine, recipe):
    """A run with changed parameters in which many extractions failed."""
    server.set_faults([Fault("truncated_json", next=25, role="claims")])
    run = ui.trigger("build-dataset/symmpo", {
        "root": str(machine.folder / "set"),
        "source": {"location": str(server.world / "prompts.jsonl")},
        "recipe": recipe,
        "train_after": TRAINING,
    })  # fmt: skip
    found = ui.ended(run)
    assert found["state_type"] == "COMPLETED", found["state"]
    return found


def test_a_run_shows_what_failed_what_to_do_and_why_no_training_starts(ui, first):
    assert first["name"] == "build everyday in set"
    shown = ui.artifacts(first["id"])
    failed = json.loads(shown["failed-rows"]["data"])
    assert [(r["stage"], r["error class"], r["rows"]) for r in failed] == [
        ("extract", "InvalidAnswer", 25)
    ]
    assert failed[0]["what to do"].startswith("Retry asks afresh.")
    assert "Training was not started" in shown["training-start"]["data"]
    assert "were dropped, more than the 70.0% allowed" in shown["training-start"]["data"]
    assert shown["dataset-card"]["data"].count("duckdb -readonly") == 3
    assert ui.runs_of("train/train") == []


@pytest.fixture(scope="module")
def retried(ui, server, first):
    """The retry that the page's link opens; calls are counted from here."""
    page = ui.artifacts(first["id"])["retry-failed"]["data"]
    link = re.search(r"/deployment/([0-9a-f-]+)/run\?parameters=([^)]+)\)", page)
    deployment = ui.get("/deployments/name/retry-failed/retry-failed")
    assert link[1] == deployment["id"]
    parameters = json.loads(unquote(unquote(link[2])))
    before = server.stats()["by_role"]
    changes = {"claims": {"concurrency": 2}}
    run = ui.trigger(
        "retry-failed/retry-failed", {**parameters, "changes": changes, "train_after": TRAINING}
    )
    found = ui.ended(run)
    after = server.stats()["by_role"]
    return found, {role: after[role] - before[role] for role in after}


def test_a_retry_by_class_pays_for_what_failed_and_what_follows(ui, first, retried):
    run, calls = retried
    assert run["state_type"] == "COMPLETED", run["state"]
    assert run["name"] == "retry extract InvalidAnswer in set"
    assert calls["captioner"] == calls["reference"] == 0
    assert calls["claims"] <= 2 * 25  # each extraction, and the rewrite that waited for it
    assert json.loads(ui.artifacts(run["id"])["failed-rows"]["data"]) == []


def test_training_starts_on_that_dataset_and_shows_its_losses_and_what_it_changed(
    ui, machine, retried
):
    run, _ = retried
    assert "is the run [" in ui.artifacts(run["id"])["training-start"]["data"]
    [training] = ui.runs_of("train/train")
    done = ui.ended(training["id"])
    assert done["state_type"] == "COMPLETED", done["state"]
    assert done["work_pool_name"] == "vispref-gpu"
    current = json.loads((machine.folder / "set" / "current.json").read_text())
    assert done["parameters"]["dataset"] == current["dataset"]
    shown = ui.artifacts(training["id"])
    assert current["dataset"] in shown["checkpoint"]["data"]
    assert "data:image/svg+xml" in shown["losses"]["data"]
    assert "CHAIRs" in shown["before-after"]["data"]


def test_the_same_dataset_starts_no_second_training(ui, machine, recipe, retried):
    run = ui.trigger("build-dataset/symmpo", {
        "root": str(machine.folder / "set"), "recipe": recipe, "train_after": TRAINING,
    })  # fmt: skip
    assert ui.ended(run)["state_type"] == "COMPLETED"
    assert len(ui.runs_of("train/train")) == 1
    assert "is started once" in ui.artifacts(run)["training-start"]["data"]


def test_no_key_stands_in_anything_that_prefect_or_the_root_keeps(machine, retried):
    folders = [machine.state, machine.folder / "set", machine.folder / "cache"]
    kept = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    assert any(path.name == "prefect.db" for path in kept)
    assert [path for path in kept if KEY.encode() in path.read_bytes()] == []


@pytest.fixture(scope="module")
def page():
    """A browser's page, or a skip that says what is missing."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        pytest.skip("no chromium is installed: `apt-get install chromium`")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as tool:
        browser = tool.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield browser.new_page(viewport={"width": 1400, "height": 1000})
        browser.close()


def test_the_pages_show_the_runs_the_failed_rows_and_the_form_filled_in(
    ui, machine, first, retried, page
):
    base = f"http://127.0.0.1:{machine.port}"
    page.goto(f"{base}/runs/flow-run/{first['id']}")
    page.get_by_text("build everyday in set").first.wait_for()
    page.get_by_text("Artifacts", exact=True).first.click()
    page.get_by_text("failed-rows").first.wait_for()

    failed = ui.artifacts(first["id"])["failed-rows"]["id"]
    page.goto(f"{base}/artifacts/artifact/{failed}")
    page.get_by_text("InvalidAnswer").first.wait_for()

    retry = ui.artifacts(first["id"])["retry-failed"]
    page.goto(re.search(r"\((http[^)]+/run\?parameters=[^)]+)\)", retry["data"])[1])
    page.get_by_text("Only rows that failed in this stage.").first.wait_for()
    fields = page.locator("textarea").evaluate_all("all => all.map(one => one.value)")
    assert str(machine.folder / "set") in fields
    page.get_by_text("extract", exact=True).first.wait_for()


def test_a_form_with_wrong_values_is_refused_before_anything_runs(ui):
    before = len(ui.runs_of("build-dataset/symmpo"))
    with pytest.raises(httpx.HTTPStatusError) as refused:
        ui.trigger("build-dataset/symmpo", {"recipe": {"name": "x", "resample": {"k": 0}}})
    assert refused.value.response.status_code in (409, 422)
    assert len(ui.runs_of("build-dataset/symmpo")) == before


def test_the_prefect_file_is_where_up_looks_for_it():
    assert (REPOSITORY / "prefect.yaml").is_file()
