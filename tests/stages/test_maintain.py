"""A real root looked after: the same dataset before and after, and every damage found."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from sources.spec import InputSpec
from stages.maintain import check, error_of, tidy
from storage import parts
from storage.catalog import query
from storage.root import Root
from storage.schemas import TABLES

REPOSITORY = Path(__file__).parents[2]
VIEWS = ("inputs", "images", "scans", "neighbours", "captions", "answers", "extractions",
         "claims", "rewrites", "failures", "preferences", "decisions", "lineage")  # fmt: skip


@pytest.fixture
def built(world, server, build, make_recipe, make_settings, tmp_path):
    """A finished build in small batches: root, recipe, settings, spec."""
    root, recipe = Root(tmp_path / "set"), make_recipe()
    settings = make_settings(server.base_url).model_copy(update={"batch_rows": 4})
    spec = InputSpec(location=str(world / "prompts.jsonl"))
    build(root, recipe, settings, spec)
    return root, recipe, settings, spec


def tidied(root, merge=True):
    return tidy(root, merge=merge, wait=False, say=print)


def contents(root):
    return {name: query(root, f"SELECT * FROM {name} ORDER BY ALL").to_pylist() for name in VIEWS}


def kinds(report):
    return sorted((fault["kind"], fault["path"]) for fault in report["listed"])


def test_merging_changes_no_view_and_makes_nothing_pending(built, build):
    root, recipe, settings, spec = built
    before, answers = contents(root), next(iter(parts.recipes(root, "answers")))
    assert len(parts.paths(root, "answers", answers)) > 8
    receipt = tidied(root)
    assert json.loads(json.dumps(receipt)) == receipt
    assert len(parts.paths(root, "answers", answers)) == 1
    assert contents(root) == before
    assert check(root, settings)["faults"] == 0
    _, work = build(root, recipe, settings, spec)
    assert {name: stage.total for name, stage in work.progress.stages.items() if stage.calls} == {}
    assert (
        query(root, "SELECT * FROM preferences ORDER BY ALL").to_pylist() == before["preferences"]
    )


def test_a_sound_root_has_no_fault_and_everything_is_counted(built):
    root, _, settings, _ = built
    report = check(root, settings)
    assert report["faults"] == 0
    assert report["listed"] == []
    checked = report["checked"]
    assert checked["images"] == query(root, "SELECT * FROM images").num_rows
    assert checked["datasets"] == 1
    assert checked["dataset files"] == 2
    assert checked["parts"] == sum(
        len(parts.paths(root, path.rsplit("/", 1)[-1], recipe))
        for path in root.list("tables")
        for recipe in parts.recipes(root, path.rsplit("/", 1)[-1])
    )
    assert checked["cached answers"] > 0


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(bytes(data))


def test_every_damage_is_found_and_told_with_what_to_do(built):
    root, _, settings, _ = built
    folder = Path(root.path)
    images = sorted((folder / "images").glob("*/*"))
    flip(images[0])
    images[1].unlink()
    captions = root.full(parts.paths(root, "captions", *parts.recipes(root, "captions"))[0])
    os.truncate(captions, os.path.getsize(captions) // 2)
    foreign = folder / "tables" / "claims" / "r" / "part-foreign.parquet"
    foreign.parent.mkdir()
    foreign.write_bytes(next((folder / "tables" / "images").glob("*/part-*")).read_bytes())
    dataset = next((folder / "datasets").iterdir())
    preferences = next((dataset / "preferences").iterdir())
    flip(preferences)
    (folder / "datasets" / "unfinished").mkdir()
    (folder / "datasets" / "unfinished" / "README.md").write_text("cut short")
    report = check(root, settings)
    assert kinds(report) == sorted(
        [
            ("damaged image", f"images/{images[0].parent.name}/{images[0].name}"),
            ("missing image", f"images/{images[1].parent.name}/{images[1].name}"),
            ("unreadable part", os.path.relpath(captions, folder)),
            ("wrong columns", "tables/claims/r/part-foreign.parquet"),
            ("damaged dataset file", os.path.relpath(preferences, folder)),
            ("unfinished dataset", "datasets/unfinished"),
        ]
    )
    assert report["faults"] == 6
    assert all(fault["found"] and fault["do"] for fault in report["listed"])
    assert "6 faults were found" in str(error_of(report))


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        (lambda m: {**m, "kept": m["kept"] + 1}, "damaged manifest"),
        (lambda m: {**m, "dataset": "another"}, "damaged manifest"),
        (lambda m: {k: v for k, v in m.items() if k != "files"}, "damaged manifest"),
        (
            lambda m: {**m, "files": [{**f, "sha256": "0" * 64} for f in m["files"]]},
            "damaged dataset file",
        ),
        (
            lambda m: {**m, "files": [{**f, "path": "../" + f["path"]} for f in m["files"]]},
            "damaged dataset file",
        ),
        (lambda m: {**m, "files": [{**f, "path": 5} for f in m["files"]]}, "damaged manifest"),
        (lambda m: {**m, "files": [{**f, "rows": "x"} for f in m["files"]]}, "damaged manifest"),
    ],
)
def test_a_changed_manifest_is_found(built, change, kind):
    root, _, settings, _ = built
    (path,) = Path(root.path).glob("datasets/*/manifest.json")
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
    assert kind in {fault["kind"] for fault in check(root, settings)["listed"]}
    for torn in (b"{", b"\xff{}"):
        path.write_bytes(torn)
        found = kinds(check(root, settings))
        assert found == [("damaged manifest", os.path.relpath(path, root.path))]


def test_a_flipped_bit_in_a_table_is_found_and_not_merged(built):
    """Parquet alone would read it as another text."""
    root, _, settings, _ = built
    paths = parts.paths(root, "answers", *parts.recipes(root, "answers"))
    path = Path(root.full(paths[0]))
    texts = pq.read_metadata(path).row_group(0).column(TABLES["answers"].names.index("text"))
    data = bytearray(path.read_bytes())
    start = texts.dictionary_page_offset or texts.data_page_offset
    data[start + texts.total_compressed_size - 1] ^= 1  # the end of the column's last page
    path.write_bytes(bytes(data))
    assert kinds(check(root, settings)) == [("unreadable part", paths[0])]
    (line,) = [line for line in tidied(root)["tables"] if line["table"] == "answers"]
    assert line["unreadable"] == 1
    assert path.read_bytes() == bytes(data)


def test_a_missing_view_and_a_damaged_cache_are_found(built, world, tmp_path):
    root, _, settings, _ = built
    part = parts.read_part(root, parts.paths(root, "images", "content")[0]).to_pylist()
    view = f"views/{part[0]['key'][:2]}/{part[0]['key']}.png"
    from storage.schemas import IMAGES

    for path in parts.paths(root, "images", "content"):
        root.remove(path)
    parts.write_rows(root, "images", "content", [{**part[0], "view_path": view}], IMAGES)
    cache = settings.cache_dir / "responses.sqlite"
    cache.write_bytes(cache.read_bytes()[:8192] + b"\xff" * 40_000)
    (settings.cache_dir / "responses.sqlite-wal").unlink(missing_ok=True)
    assert kinds(check(root, settings)) == [
        ("damaged response cache", str(settings.cache_dir)),
        ("missing view", view),
    ]


def test_what_killed_runs_left_is_removed_and_what_is_young_stays(built):
    root = built[0]
    folder = Path(root.path)
    (folder / "work" / "killed").mkdir(parents=True)
    (folder / "work" / "killed" / "000000.parquet").write_bytes(b"x")
    old, young = (folder / "images" / f".{n}.png.12-345-0123abcd" for n in ("old", "young"))
    for path in (old, young, folder / ".hidden-of-a-user"):
        path.write_bytes(b"x")
    long_ago = time.time() - 25 * 3600
    os.utime(old, (long_ago, long_ago))
    os.utime(folder / ".hidden-of-a-user", (long_ago, long_ago))
    (folder / "tables" / "captions" / "cut-short.staged").write_bytes(b"x")
    receipt = tidied(root, merge=False)
    assert receipt["swept"] == {"merges ended": 0, "work folders": 1, "temporary files": 2}
    assert not old.exists()
    assert young.exists()
    assert (folder / ".hidden-of-a-user").exists()
    assert not (folder / "work" / "killed").exists()


def maintain(root, settings, *options):
    return subprocess.run(
        [sys.executable, "-m", "cli.main", "maintain", "--root", str(root.path), *options],
        cwd=REPOSITORY, capture_output=True, text=True, check=False, timeout=120,
        env={**os.environ, "VISPREF_CACHE_DIR": str(settings.cache_dir), "COLUMNS": "200"},
    )  # fmt: skip


def test_the_command_prints_the_report_and_ends_with_1_on_faults(built, tmp_path):
    root, _, settings, _ = built
    sound = maintain(root, settings)
    assert sound.returncode == 0, sound.stderr
    assert "No fault was found." in sound.stdout
    assert "answers" in sound.stdout
    image = sorted(Path(root.path).glob("images/*/*"))[0]
    flip(image)
    damaged = maintain(root, settings, "--no-compact")
    assert damaged.returncode == 1
    assert image.name in damaged.stdout
    assert "to do: delete it; ingest the input again" in damaged.stdout
    assert damaged.stderr.startswith("StorageError: 1 fault was found")
    assert maintain(root, settings, "--no-verify").returncode == 0
    assert "holds no run yet" in maintain(Root(tmp_path / "none"), settings).stderr
