"""What goes wrong around a build: lost files, edited prompts, a run that waited, images that left."""

import asyncio
import json
import threading

import numpy as np
import pytest

from config.errors import RefusedImage
from config.recipe import load_recipe
from config.settings import Settings
from sources.spec import InputSpec
from stages import embed_job
from stages import ingest as ingest_stage
from stages import scan as scan_stage
from stages.base import Work, unit_id
from stages.chain import EMBED_CLIP, IMAGES, SCAN, make_chain
from stages.joined import alike_sql
from stages.run import open_work, record_start
from storage import parts
from storage.catalog import query
from storage.root import Root
from storage.schemas import TABLES
from storage.vectors import TABLE, vectors_table
from tests.conftest import run_stages


@pytest.fixture
def spec(world):
    return InputSpec(location=str(world / "prompts.jsonl"))


@pytest.fixture
def built(spec, server, build, make_recipe, make_settings, tmp_path):
    """A finished build: root, recipe, settings, receipt."""
    recipe, settings = make_recipe(), make_settings(server.base_url)
    receipt, work = build(tmp_path / "set", recipe, settings, spec)
    return work.root, recipe, settings, receipt


def reasons(root):
    sql = "SELECT coalesce(reason, 'kept') AS r, count(*) AS n FROM decisions GROUP BY 1"
    return {row["r"]: row["n"] for row in query(root, sql).to_pylist()}


def failures(root):
    found = query(root, "SELECT DISTINCT stage, error_class FROM failures").to_pylist()
    return sorted((row["stage"], row["error_class"]) for row in found)


def test_a_vanished_image_fails_its_rows_and_comes_back_with_an_ingest(built, build, spec):
    root, recipe, settings, receipt = built
    whole = reasons(root)
    # Nobody's contrastive image: a row whose m' is lost is given another one, and keeps that.
    spare = "SELECT min(path) AS p FROM images WHERE key NOT IN (SELECT neighbour FROM neighbours)"
    lost = query(root, spare).to_pylist()[0]["p"]
    assert lost is not None
    root.remove(lost)
    for table in ("embeddings", "scans", "neighbours", "captions"):
        root.remove(f"tables/{table}")
    build(root, recipe, settings)
    assert ("embed_clip", "InputMissing") in failures(root)
    assert reasons(root)["upstream_failed"] > whole.get("upstream_failed", 0)
    assert sum(reasons(root).values()) == receipt["rows"]
    again, _ = build(root, recipe, settings, spec)
    assert root.exists(lost)
    assert failures(root) == []
    assert reasons(root) == whole
    assert again["dataset"] == receipt["dataset"]
    assert query(root, "SELECT key FROM images GROUP BY key HAVING count(*) > 1").num_rows == 0


def test_an_image_dino_cannot_embed_leaves_an_unknown_cosine(
    spec, server, build, make_recipe, make_settings, tmp_path, monkeypatch
):
    whole = embed_job.open_image
    bad, one_by_one = [], threading.Lock()

    def opened(root, kind, row, wrong):
        with one_by_one:
            damaged = kind == "dino" and (not bad or row["key"] in bad)
            if damaged:
                bad.append(row["key"])
        if damaged:
            wrong[row["key"]] = "UnreadableImage"
            raise RefusedImage("truncated", "damaged")
        return whole(root, kind, row, wrong)

    monkeypatch.setattr(embed_job, "open_image", opened)
    _, work = build(tmp_path / "set", make_recipe(), make_settings(server.base_url), spec)
    [without] = set(bad)
    found = query(work.root, "SELECT * FROM neighbours").to_pylist()
    assert {row["dino_cosine"] for row in found if row["key"] == without} == {None}
    assert not any(row["dino_cosine"] is not None and np.isnan(row["dino_cosine"]) for row in found)
    assert failures(work.root) == [("embed_dino", "UnreadableImage")]


def test_a_prompt_edited_while_the_run_goes_on_is_the_next_runs(
    spec, server, make_recipe, make_settings, tmp_path
):
    from prompts import load_prompt

    path = tmp_path / "my-caption.txt"
    path.write_text(load_prompt("caption.txt").text)
    recipe = make_recipe(caption={"prompt": str(path)})
    work = open_work(Root(tmp_path / "set"), recipe, make_settings(server.base_url))
    path.write_text(path.read_text().replace("\n[user]", " Be careful.\n\n[user]", 1))
    asyncio.run(run_stages(work, spec))
    used = query(work.root, "SELECT DISTINCT prompt_digest AS d FROM captions").to_pylist()
    assert [row["d"] for row in used] == [work.chain.recipes["caption"]["prompt"]["digest"]]


def test_a_run_that_waited_takes_the_rows_of_the_newest_ingest(built, build, spec):
    root, recipe, settings, receipt = built
    waiting = open_work(root, recipe, settings)
    build(root, recipe, settings, spec)  # its ingest takes the place of the one `waiting` saw
    root.write_json("work/killed/caption.json", {})
    assert asyncio.run(run_stages(waiting))["rows"] == receipt["rows"]
    assert root.list("work") == []


def test_an_ingest_that_is_tried_again_doubles_no_record(built, spec, world):
    root, recipe, settings, _ = built
    work = open_work(root, recipe, settings)
    record_start(work, spec)
    ingest_stage.ingest(work, spec)
    ingest_stage.ingest(work, spec)
    records = len((world / "prompts.jsonl").read_text().splitlines())
    assert query(root, "SELECT * FROM inputs").num_rows == records
    assert query(root, "SELECT * FROM history.inputs").num_rows == records


def test_a_new_link_between_images_makes_a_new_dataset(built, build):
    root, recipe, settings, receipt = built
    sides = {
        row["image"]: row["split"]
        for row in query(root, "SELECT image, split FROM preferences").to_pylist()
    }
    a, b = (next(i for i in sorted(sides) if sides[i] == side) for side in ("train", "validation"))
    low, high = sorted((a, b))
    pair = {"key": f"{low}:{high}", "image_a": low, "image_b": high, "near_duplicate": True}
    recipe_digest = root.read_json("current.json")["digests"][SCAN]
    parts.write_rows(root, "pairs", recipe_digest, [pair], TABLES["pairs"])
    again, _ = build(root, recipe, settings)
    assert again["dataset"] != receipt["dataset"]
    now = query(root, "SELECT DISTINCT image, split FROM preferences").to_pylist()
    assert len({row["split"] for row in now if row["image"] in (a, b)}) == 1


def test_an_edited_id_makes_a_new_dataset(built, build, world, tmp_path):
    root, recipe, settings, receipt = built
    lines = [json.loads(line) for line in (world / "prompts.jsonl").read_text().splitlines()]
    path = tmp_path / "renamed.jsonl"
    path.write_text("".join(json.dumps({**x, "id": f"new-{x['id']}"}) + "\n" for x in lines))
    again, _ = build(root, recipe, settings, InputSpec(location=str(path), images_root=str(world)))
    assert again["dataset"] != receipt["dataset"]
    ids = query(root, "SELECT unnest(external_ids) AS i FROM preferences").to_pylist()
    assert ids
    assert all(row["i"].startswith("new-") for row in ids)


@pytest.mark.parametrize("strategy", ["nearest", "blind"])
def test_images_that_left_and_came_back_are_compared_with_those_that_came_meanwhile(
    tmp_path, strategy
):
    root = Root(tmp_path / "set")
    a, b, c, d = (letter * 64 for letter in "abcd")
    values = {a: [1, 0, 0], b: [0.9999, 0.0141, 0], c: [0, 1, 0], d: [0, 0.96, 0.28]}
    mining = {"mine.strategy": strategy, "mine.clip_min": 0.9, "mine.near_duplicate": 0.99}
    chain = make_chain(load_recipe("symmpo", mining), {"name": "none"}, None)
    rows = np.array(list(values.values()), dtype=np.float64)
    unit = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float16)
    parts.write_table(root, TABLE, chain.of(EMBED_CLIP), vectors_table(list(values), unit))
    images = [{"key": key, "path": f"images/{key}.png"} for key in values]
    parts.write_rows(root, "images", IMAGES, images, TABLES["images"])

    def scan(number, keys):
        inputs = [
            {"status": "accepted", "row_id": unit_id(key, "x"), "image": key, "prompt": "x"}
            for key in keys
        ]
        parts.write_rows(root, "inputs", str(number), inputs, TABLES["inputs"])
        work = Work(root, chain, Settings(), run_id=str(number), ingest=str(number))
        scan_stage.scan(work)
        with work.tables() as tables:
            near = tables.rows(alike_sql(work, tables))
            found = tables.rows(f"SELECT key FROM {tables.source('pairs', chain.of(SCAN))}")
        return [(row["image_a"], row["image_b"]) for row in near], {row["key"] for row in found}

    scan(1, [a, c])
    scan(2, [b, d])
    near, pairs = scan(3, [a, b, c, d])
    assert near == [(a, b)]
    if strategy == "blind":
        assert pairs == {f"{a}:{b}", f"{c}:{d}"}


def test_a_decoder_that_stumbles_refuses_its_image_alone(built, spec, monkeypatch, world, tmp_path):
    _, recipe, settings, _ = built
    whole, first = ingest_stage.ImageLoader.load, []

    def load(self, ref):
        first.append(ref) if not first else None
        if ref == first[0]:
            raise RecursionError("too deep")
        return whole(self, ref)

    monkeypatch.setattr(ingest_stage.ImageLoader, "load", load)
    work = open_work(Root(tmp_path / "other"), recipe, settings)
    record_start(work, spec)
    ingest_stage.ingest(work, spec)
    refused = query(work.root, "SELECT * FROM inputs WHERE status = 'refused'").to_pylist()
    assert {row["reason"] for row in refused} == {"unreadable_file"}
    assert "RecursionError: too deep" in refused[0]["message"]
    shown = query(work.root, "SELECT stage, error_class FROM failures").to_pylist()
    assert shown == [{"stage": "ingest", "error_class": "unreadable_file"}] * len(refused)
    assert query(work.root, "SELECT * FROM rows").num_rows > 0
