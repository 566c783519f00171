"""The flow as Prefect runs it, and the command line around it, in processes of their own."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from config.settings import ROLES

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def prefect_server(tmp_path_factory):
    """A real Prefect server over loopback, with a home of its own."""
    home = tmp_path_factory.mktemp("prefect")
    environment = {
        **os.environ,
        "PREFECT_HOME": str(home),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
    }
    for name in ("PREFECT_API_URL", "PREFECT_LOGGING_LEVEL"):
        environment.pop(name, None)
    from prefect.testing.utilities import prefect_test_harness

    with prefect_test_harness(server_startup_timeout=120):
        from prefect.settings import get_current_settings

        yield {**environment, "PREFECT_API_URL": str(get_current_settings().api.url)}


@pytest.fixture
def project(world, server, make_recipe, tmp_path, prefect_server):
    """run(*arguments) -> CompletedProcess of the command, its endpoints and cache set."""
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(make_recipe().model_dump(mode="json")))
    environment = {
        **prefect_server,
        "VISPREF_CACHE_DIR": str(tmp_path / "cache"),
        "VISPREF_BATCH_ROWS": "16",
        "COLUMNS": "200",
    }
    for role in ("CAPTIONER", "REFERENCE", "CLAIMS"):
        environment[f"VISPREF_{role}__BASE_URL"] = server.base_url
        environment[f"VISPREF_{role}__API_KEY"] = "sk-top-secret"

    def environment_of(more):
        merged = {**environment, **more}
        return {name: value for name, value in merged.items() if value is not None}

    def run(*arguments, **more):
        return subprocess.run(
            [sys.executable, "-m", "cli.main", *map(str, arguments)],
            cwd=REPOSITORY, env=environment_of(more), capture_output=True, text=True,
            timeout=240, check=False,
        )  # fmt: skip

    run.recipe = recipe
    run.root = tmp_path / "set"
    run.environment = environment
    return run


def test_build_query_show_status_plan_and_a_second_build(project, world, server):
    root = ("--root", project.root)
    built = project("build", project.recipe, *root, "--input", world / "prompts.jsonl")
    assert built.returncode == 0, built.stderr
    assert "rows kept" in built.stdout
    assert "rewrite" in built.stderr
    assert "done" in built.stderr

    found = project("query", "SELECT row_id, chosen FROM preferences", *root, "--format", "json")
    rows = [json.loads(line) for line in found.stdout.splitlines()]
    assert rows
    shown = project("show", rows[0]["row_id"][:10], *root)
    assert rows[0]["chosen"][:20] in shown.stdout.replace("\n", " ")
    assert "image m'" in shown.stdout
    assert "no row has an id" in project("show", "zzz", *root).stderr
    assert "only SELECT and EXPLAIN" in project("query", "DROP TABLE rows", *root).stderr
    assert "preferences" not in project("status", *root).stderr
    assert "kept" in project("status", *root).stdout

    planned = project("plan", *root)
    assert "nothing is pending" in planned.stdout
    edited = project("plan", *root, "--set", "resample.temperature=0.9")
    assert "because resample.temperature changed from 0.7 to 0.9" in edited.stdout

    before = server.stats()["calls"]
    nowhere = {f"VISPREF_{role.upper()}__BASE_URL": None for role in ROLES}
    again = project("build", *root, **nowhere)  # nothing is pending: no endpoint is asked for
    assert again.returncode == 0, again.stderr
    assert server.stats()["calls"] == before
    for process in (built, found, shown, planned, again):
        assert "sk-top-secret" not in process.stdout + process.stderr

    check_server_saw(project.environment["PREFECT_API_URL"])


def check_server_saw(api_url):
    """Run names, tags and artifacts as the server has them."""
    import httpx

    runs = httpx.post(f"{api_url}/flow_runs/filter", json={}).json()
    assert {run["state_type"] for run in runs} == {"COMPLETED"}
    assert all(run["name"].startswith("build test in set") for run in runs)
    tasks = httpx.post(f"{api_url}/task_runs/filter", json={}).json()
    assert {"ingest", "assemble"} <= {tag for task in tasks for tag in task["tags"]}
    names = {task["name"].split()[0] for task in tasks}
    assert {"ingest", "caption", "resample", "extract", "rewrite", "assemble"} <= names
    batches = [task for task in tasks if task["name"].startswith("rewrite")]
    assert not any(task["tags"] for task in batches)  # each tag costs a call to the server
    artifacts = httpx.post(f"{api_url}/artifacts/filter", json={}).json()
    kinds = {artifact["type"] for artifact in artifacts}
    assert {"progress", "table", "markdown"} <= kinds
    stages = next(a for a in artifacts if a["key"] == "stages")
    assert [row["stage"] for row in json.loads(stages["data"])][-1] == "assemble"
    assert "sk-top-secret" not in json.dumps([runs, tasks, artifacts])


NOISE = (
    "Traceback", "nanobind", "leaked", "RuntimeWarning", "Unclosed", "never retrieved",
    "Loading weights", "prefect.",
)  # fmt: skip


def said_once(stderr, error):
    """The error is the last thing said, and no library talks around it."""
    last = stderr.split(f"{error}:")
    return len(last) == 2 and len(last[1].splitlines()) <= 2 and not any(n in stderr for n in NOISE)


def test_a_stopped_build_has_its_own_exit_code_and_goes_on(project, world):
    root = ("--root", project.root)
    stopped = project(
        "build", project.recipe, *root, "--input", world / "prompts.jsonl",
        VISPREF_BUDGET__TOKENS="30000",
    )  # fmt: skip
    assert stopped.returncode == 3, stopped.stderr
    assert "BudgetExhausted" in stopped.stderr
    assert "Traceback" not in stopped.stderr
    assert said_once(stopped.stderr, "BudgetExhausted")
    assert project("build", *root).returncode == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("build", "sympmo", "--root", "ROOT", "--input", "x"), "did you mean 'symmpo'"),
        (("build", "--root", "ROOT", "--input", "x"), "was never built: name a recipe"),
        (("query", "SELECT * FROM rows", "--root", "ROOT"), "holds no run yet"),
        (("show", "abc", "--root", "ROOT"), "holds no run yet"),
        (("retry", "--root", "ROOT", "--stage", "rewrit"), "expected one of caption, resample"),
        (("retry", "--root", "ROOT", "--error-class", "Bad"), "EmptyAnswer, InputMissing"),
        (("status", "--root", "ROOT"), "holds no run yet"),
    ],
)
def test_a_mistake_is_one_clear_line(project, arguments, message):
    found = project(*(str(project.root) if a == "ROOT" else a for a in arguments))
    assert found.returncode == 1
    assert message in found.stderr
    assert "Traceback" not in found.stderr


@pytest.mark.parametrize(
    ("setting", "error", "code"),
    [
        ({"VISPREF_CAPTIONER__API_KEY": "sk-wrong"}, "KeyRejected", 3),
        ({"VISPREF_CAPTIONER__BASE_URL": None}, "RecipeError", 1),
    ],
)
def test_a_failed_build_says_one_error_and_no_library_speaks(project, world, setting, error, code):
    from miniature.annotations import load_annotations
    from miniature.server import StandInServer

    source = ("--input", world / "prompts.jsonl")
    annotations = load_annotations(world / "annotations.jsonl")
    with StandInServer(annotations, api_key="sk-top-secret") as strict:
        urls = {f"VISPREF_{role.upper()}__BASE_URL": strict.base_url for role in ROLES}
        found = project(
            "build", project.recipe, "--root", project.root, *source, **{**urls, **setting}
        )
    assert found.returncode == code, found.stderr
    assert said_once(found.stderr, error), found.stderr


def hear_ctrl_c():
    """A terminal's job does; one that was started in the background ignores it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.slow  # starts a Prefect server of its own, as a run in a terminal does
def test_ctrl_c_reaches_the_whole_job_and_still_ends_it(project, world):
    from miniature.annotations import load_annotations
    from miniature.server import StandInServer

    annotations = load_annotations(world / "annotations.jsonl")
    with StandInServer(annotations, latency_ms=1000) as slow:
        urls = {f"VISPREF_{role.upper()}__BASE_URL": slow.base_url for role in ROLES}
        environment = {**project.environment, **urls, "VISPREF_REFERENCE__CONCURRENCY": "2"}
        del environment["PREFECT_API_URL"]
        process = subprocess.Popen(
            [sys.executable, "-m", "cli.main", "build", str(project.recipe), "--root",
             str(project.root), "--input", str(world / "prompts.jsonl")],
            cwd=REPOSITORY, env=environment, stderr=subprocess.PIPE, text=True,
            start_new_session=True, preexec_fn=hear_ctrl_c,
        )  # fmt: skip
        try:
            deadline = time.monotonic() + 200
            while slow.stats()["calls"] < 30:  # 24 captions, then samples two by two
                assert process.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.1)
            os.killpg(process.pid, signal.SIGINT)
            _, told = process.communicate(timeout=100)
        finally:
            process.kill()
    assert process.returncode == 130
    assert told.splitlines()[-1].startswith("Stopped. What was done is kept")
    assert not any(noise in told for noise in NOISE), told
    assert project("build", "--root", project.root).returncode == 0


def test_an_unforeseen_error_is_one_line_and_its_trace_is_kept(capsys, monkeypatch):
    from cli import main

    def broken():
        raise ValueError("two\nlines")

    monkeypatch.setattr(main, "app", broken)
    assert main.run() == 1
    told = capsys.readouterr().err
    assert told.startswith("Unexpected ValueError: two lines\n")
    trace = Path(told.split("report it with ")[1].strip())
    assert "in broken" in trace.read_text()
    trace.unlink()


def test_help_imports_nothing_heavy():
    code = (
        "import sys, cli.main; print([m for m in ('torch', 'prefect', 'duckdb', 'pyarrow', "
        "'transformers', 'openai') if m in sys.modules])"
    )
    found = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    assert found.stdout.strip() == "[]"
