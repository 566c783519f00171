import base64
import io

import pytest
from PIL import Image

from config.errors import StorageError
from report.page import render
from report.reading import read_report
from report.thumbnails import SIDE, thumbnail
from sources.spec import InputSpec
from storage.catalog import query
from storage.root import Root


@pytest.fixture
def root(tmp_path, world, server, make_recipe, make_settings, build):
    spec = InputSpec(location=str(world / "prompts.jsonl"))
    build(tmp_path / "root", make_recipe(), make_settings(server.base_url), spec)
    return Root(tmp_path / "root")


def opened(picture):
    return Image.open(io.BytesIO(base64.b64decode(picture.source.partition(",")[2])))


def test_a_report_tells_what_the_tables_hold(root):
    report = read_report(root, pairs=5)
    rows = {row["row_id"]: row for row in query(root, "SELECT * FROM preferences").to_pylist()}
    assert (report.rows, report.kept) == (36, len(rows))
    assert sum(report.drops.values()) == report.rows - report.kept
    assert sum(report.splits.values()) == report.kept
    assert len(report.pairs) == 5
    for pair in report.pairs:
        row = rows[pair.row_id]
        assert (pair.chosen, pair.rejected) == (row["chosen"], row["rejected"])
        assert opened(pair.image).size == Image.open(root.full(row["image_path"])).size
        told = {claim.text: claim.verdict for claim in pair.claims}
        assert {"consistent", "inconsistent"} <= set(told.values())
    answers = report.stages[1]
    [calls] = query(root, "SELECT count(*) AS n FROM answers").column("n").to_pylist()
    assert (answers.name, answers.model, answers.rows) == ("resample", "stand-in-reference", calls)
    assert answers.prompt_tokens > 0
    for lengths in report.lengths:
        assert sum(lengths.counts.values()) == len([r for r in rows.values() if r[lengths.name]])
    assert {made.stage for made in report.made} >= {"embed_clip", "caption", "rewrite"}
    assert report.pairs[0].prompt in render(report)


def test_the_sample_is_the_same_for_a_seed_alone(root):
    def ids(seed):
        return [pair.row_id for pair in read_report(root, 4, seed).pairs]

    first = ids(0)
    assert ids(0) == first
    assert ids(1) != first


def test_a_root_without_a_dataset_is_refused(tmp_path):
    with pytest.raises(StorageError, match="no assembled dataset"):
        read_report(Root(tmp_path), 3)


def test_a_thumbnail_is_small_upright_and_carries_nothing_else(tmp_path):
    photo = Image.effect_noise((1600, 900), 40).convert("RGB")
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "a private description"  # turned by 90 degrees
    photo.save(tmp_path / "photo.jpg", exif=exif, quality=95)
    small = thumbnail(Root(tmp_path), "photo.jpg")
    assert opened(small).size == (small.width, small.height)
    assert max(small.width, small.height) == SIDE
    assert small.height > small.width
    assert b"private" not in base64.b64decode(small.source.partition(",")[2])
    assert len(small.source) < 100_000


def test_a_picture_that_cannot_be_read_says_so(tmp_path):
    (tmp_path / "broken.png").write_bytes(b"no image")
    for name in ("broken.png", "gone.png"):
        small = thumbnail(Root(tmp_path), name)
        assert small.source is None
        assert name in small.fault
