"""Work in shards: the same rows whatever the shards, and nothing that a job must not carry."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from config.errors import FileMissing, RecipeError, RootLost, StageStopped, StorageError
from config.settings import Settings
from curation.blind import PairBlock, pairs_above
from curation.cosines import EdgeCounts
from curation.nearest import nearest
from sources.spec import InputSpec
from stages import embed as embed_stage
from stages import ingest, jobs
from stages.chain import EMBED_CLIP
from stages.run import open_work, record_start
from stages.scan import shards
from stages.scan_job import of_shard
from storage import parts
from storage.root import Root

CEILING = 0.999


def rows_of(seed, n, dimension=16):
    """Clusters with copies and near copies."""
    drawn = np.random.default_rng(seed)
    centres = drawn.standard_normal((max(1, n // 5), dimension))
    spread = drawn.choice([0.0, 0.002, 0.3], n)[:, None]
    rows = centres[drawn.integers(0, len(centres), n)] + spread * drawn.standard_normal(
        (n, dimension)
    )
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float16)


def listed(block):
    return list(zip(block.a.tolist(), block.b.tolist(), block.cosine.tolist(), strict=True))


sizes = st.integers(1, 60)
seeds = st.integers(0, 10_000)
quick = settings(max_examples=60, deadline=None)


@quick
@given(seeds, sizes, st.integers(1, 70), st.integers(1, 30), st.booleans())
def test_pairs_of_shards_are_the_pairs_of_one(seed, n, size, block, all_new):
    vectors = rows_of(seed, n)
    is_new = np.random.default_rng(seed).random(n) < 0.6
    is_new = None if all_new else is_new
    fresh = n if all_new else int(is_new.sum())
    counts, summed = EdgeCounts.around(0.8), EdgeCounts.around(0.8)
    whole = pairs_above(vectors, 0.8, is_new=is_new, counts=counts)
    expected = sorted(pair for part in whole for pair in listed(part))
    found = [
        pair
        for share in shards(fresh, size)
        for part in pairs_above(vectors, 0.8, block=block, is_new=is_new, counts=summed, part=share)
        for pair in listed(part)
    ]
    assert sorted(found) == expected  # each once
    assert summed.above.tolist() == counts.above.tolist()


@quick
@given(seeds, sizes, st.integers(1, 70), st.integers(1, 30))
def test_neighbours_of_shards_are_those_of_one_and_no_pair_is_written_twice(seed, n, size, block):
    vectors = rows_of(seed, n)
    is_new = np.random.default_rng(seed).random(n) < 0.6
    queries = np.flatnonzero(is_new)
    whole = nearest(vectors, queries, ceiling=CEILING)
    neighbours, cosines, pairs = [], [], []
    for start, stop in shards(len(queries), size):
        own = queries[start:stop]
        found = nearest(vectors, own, ceiling=CEILING, block=block)
        neighbours += found.neighbour.tolist()
        cosines += found.cosine.tolist()
        pairs += listed(of_shard(found.duplicates, is_new, own))
    assert neighbours == whole.neighbour.tolist()
    assert np.array_equal(cosines, whole.cosine.astype(float), equal_nan=True)
    assert sorted(pairs) == listed(whole.duplicates)


def test_a_part_that_is_no_range_of_the_new_rows_is_refused():
    with pytest.raises(ValueError, match="among 4 new rows"):
        pairs_above(rows_of(0, 4), 0.5, part=(2, 5))


def test_a_pair_belongs_to_the_shard_with_its_first_new_image():
    is_new = np.array([True, True, False, True])
    pairs = PairBlock(np.array([0, 1, 2]), np.array([3, 3, 3]), np.ones(3, np.float32))
    kept = of_shard(pairs, is_new, np.array([3]))
    assert kept.a.tolist() == [2]  # 0 and 1 are new and in another shard


@pytest.fixture
def work(world, make_recipe, tmp_path):
    settings = Settings(
        cache_dir=tmp_path / "cache",
        batch_rows=8,
        embedding={"batch_size": 8},
        claims={"base_url": "http://127.0.0.1:9/v1", "api_key": "sk-top-secret"},
    )
    found = open_work(Root(tmp_path / "set"), make_recipe(), settings)
    record_start(found, None)
    ingest.ingest(found, InputSpec(location=str(world / "prompts.jsonl")))
    return found


def test_a_job_is_json_without_rows_or_keys(work):
    rows = embed_stage.pending_images(work, EMBED_CLIP)
    made = list(embed_stage.batches(work, EMBED_CLIP, rows))
    assert len(made) == 3
    text = json.dumps(made)
    assert "sk-top-secret" not in text
    assert not any(row["key"] in text for row in rows)


def test_a_driver_that_lost_the_root_puts_nothing_into_a_table(work):
    """Its workers may go on: what they write is a work file."""

    def lost_after_the_first(stage, made):
        for receipt in jobs.here(stage, made):
            yield receipt

            def lost():
                raise RootLost("another run holds it")

            work.root.fence = lost

    with pytest.raises(RootLost):
        embed_stage.embed(work, EMBED_CLIP, lost_after_the_first)
    assert len(parts.paths(work.root, "embeddings", work.chain.of(EMBED_CLIP))) == 1


def test_a_stopped_run_keeps_its_batches_and_says_stopped(work):
    def stopped_after_the_first(stage, made):
        for receipt in jobs.here(stage, made):
            work.stop(StageStopped("told to stop"))
            yield receipt

    with pytest.raises(StageStopped, match="told to stop"):
        embed_stage.embed(work, EMBED_CLIP, stopped_after_the_first)
    progress = work.progress.stages[EMBED_CLIP]
    assert (progress.state, progress.done, progress.note) == ("stopped", 8, "told to stop")
    work.stopped = None
    embed_stage.embed(work, EMBED_CLIP)
    assert work.progress.stages[EMBED_CLIP].done == progress.total - 8


def test_a_worker_with_other_weights_is_refused(work):
    rows = embed_stage.pending_images(work, EMBED_CLIP)
    job = next(embed_stage.batches(work, EMBED_CLIP, rows))
    with pytest.raises(RecipeError, match="other files here"):
        jobs.run_job({**job, "identity": "0" * 32})


def test_a_job_of_a_run_that_has_ended_says_so(work):
    rows = embed_stage.pending_images(work, EMBED_CLIP)
    job = next(embed_stage.batches(work, EMBED_CLIP, rows))
    work.root.remove("work")
    with pytest.raises(FileMissing, match="has ended"):
        jobs.run_job(job)


def test_an_error_raised_on_purpose_comes_back_as_itself():
    def full(value):
        raise StorageError(f"no room for {value}")

    answer = jobs.answered(full, "7")
    with pytest.raises(StorageError, match="no room for 7"):
        jobs.receipt_of(answer)
    assert jobs.receipt_of(jobs.answered(lambda value: value, "[1]")) == [1]
