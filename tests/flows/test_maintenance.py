"""Maintenance as Prefect runs it: its tables, and a run that fails when something is damaged."""

import json
from pathlib import Path

import pytest

from config.errors import StorageError
from flows.maintenance import maintenance
from sources.spec import InputSpec
from storage.root import Root


@pytest.fixture(scope="module")
def prefect():
    from prefect.testing.utilities import prefect_test_harness

    with prefect_test_harness(server_startup_timeout=120):
        yield


@pytest.fixture
def root(prefect, world, server, build, make_recipe, make_settings, tmp_path, monkeypatch):
    settings = make_settings(server.base_url)
    monkeypatch.setenv("VISPREF_CACHE_DIR", str(settings.cache_dir))
    root = Root(tmp_path / "set")
    build(root, make_recipe(), settings, InputSpec(location=str(world / "prompts.jsonl")))
    return root


async def table(key):
    from prefect.artifacts import Artifact

    found = await Artifact.aget(key)
    return json.loads(found.data)


async def test_a_run_leaves_its_tables_and_fails_on_a_damaged_image(root):
    receipt = await maintenance(root.url)
    assert json.loads(json.dumps(receipt)) == receipt
    assert receipt["report"]["faults"] == 0
    counts = {line["what"]: line["count"] for line in await table("maintenance")}
    assert counts["faults"] == 0
    assert counts["checked: images"] == receipt["report"]["checked"]["images"] > 0
    assert counts["merging: parts after"] <= counts["merging: parts before"]
    image = next(Path(root.path).glob("images/*/*"))
    image.write_bytes(image.read_bytes()[:-1])
    with pytest.raises(StorageError, match=f"damaged image.*{image.name}"):
        await maintenance(root.url)
    (fault,) = await table("maintenance-faults")
    assert fault["where"].endswith(image.name)
    assert "ingest the input again" in fault["what to do"]


async def test_only_what_is_asked_for_is_done(root):
    receipt = await maintenance(root.url, compact=False, verify=False)
    assert receipt["tables"] == []
    assert receipt["report"] is None
