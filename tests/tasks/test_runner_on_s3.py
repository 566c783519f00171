"""Workers in processes of their own and a root on S3: the same tables as here on a local disk."""

import json
import logging
import uuid

import fsspec
import pytest

from config.settings import Settings
from sources.spec import InputSpec
from stages import chain, ingest
from stages.embed import embed
from stages.jobs import here, receipt_of, run_job
from stages.run import open_work, record_start
from stages.scan import scan
from storage import parts
from storage.root import Root
from tasks.runners import cluster_of


@pytest.fixture
def bucket():
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    logging.getLogger("werkzeug").setLevel(logging.WARNING)  # a line a request
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        patch.setenv("AWS_ACCESS_KEY_ID", "key-id")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        fsspec.filesystem("s3").clear_instance_cache()
        name = f"bucket-{uuid.uuid4().hex}"  # moto keeps buckets over its servers
        fsspec.filesystem("s3").mkdir(name)
        yield f"s3://{name}/set"
        fsspec.filesystem("s3").clear_instance_cache()
    server.stop()


def scanned(root, spec, recipe, settings, compute):
    """Ingest, CLIP and the scan under `root`; gives their rows."""
    work = open_work(Root(root), recipe, settings)
    record_start(work, None)
    ingest.ingest(work, spec)
    embed(work, chain.EMBED_CLIP, compute)
    scan(work, compute)
    rows = {}
    for table, stage in (
        ("embeddings", chain.EMBED_CLIP),
        ("scans", chain.SCAN),
        ("pairs", chain.SCAN),
    ):
        read = parts.read_parts(work.root, table, work.chain.of(stage))
        rows[table] = sorted((row for part in read for row in part.to_pylist()), key=repr)
    return rows


@pytest.mark.slow  # the workers import torch anew
@pytest.mark.parametrize(
    "mine", [{}, {"strategy": "blind", "clip_min": 0.9, "dino_max": 0.9}], ids=["nearest", "blind"]
)
def test_the_tables_are_those_of_a_local_run(bucket, world, make_recipe, tmp_path, mine):
    spec, recipe = InputSpec(location=str(world / "prompts.jsonl")), make_recipe(mine=mine)
    local = Settings(cache_dir=tmp_path / "cache")
    expected = scanned(tmp_path / "set", spec, recipe, local, here)
    assert len(expected["embeddings"]) == len(expected["scans"]) == 24
    settings = local.model_copy(
        update={
            "runner": Settings(runner={"kind": "dask"}).runner,
            "batch_rows": 4,
            "mine_block": 16,
            "embedding": local.embedding.model_copy(update={"batch_size": 4, "device": "cpu"}),
        }
    )
    with cluster_of(settings) as cluster:

        def compute(stage, jobs):
            return (receipt_of(cluster.call(run_job, json.dumps(job))) for job in jobs)

        assert scanned(bucket, spec, recipe, settings, compute) == expected
