"""A dataset on S3-compatible storage: a real server over loopback, s3fs and other processes."""

import json
import logging
import signal
import subprocess
import sys
import threading
import uuid
from pathlib import Path

import duckdb
import fsspec
import pytest

from config.errors import RootBusy, StorageError
from sources.spec import InputSpec
from stages.calls import Retry
from stages.maintain import check, tidy
from storage.catalog import query, write_catalog
from storage.lease import Lease
from storage.lock import hold
from storage.root import Root

REPOSITORY = Path(__file__).parents[2]
SECRET = "s3-secret-that-must-not-be-written"
CALLED = ("caption", "resample", "extract", "rewrite")
HOLDER = """
import sys, time
from storage.lock import hold
from storage.root import Root
with hold(Root(sys.argv[1]), "holder", wait=False, say=print, lease_s=5, renew_s=1):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture(scope="module")
def s3():
    """The server; the environment is how a root finds it."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    logging.getLogger("werkzeug").setLevel(logging.WARNING)  # a line a request
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        patch.setenv("AWS_ACCESS_KEY_ID", "s3-key-id")
        patch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        fsspec.filesystem("s3").clear_instance_cache()
        yield
        fsspec.filesystem("s3").clear_instance_cache()
    server.stop()


@pytest.fixture
def root(s3):
    bucket = f"bucket-{uuid.uuid4().hex}"
    fsspec.filesystem("s3").mkdir(bucket)
    return Root(f"s3://{bucket}/set")


@pytest.fixture
def built(root, world, server, build, make_recipe, make_settings):
    """A finished build, and what it takes to build again."""
    recipe = make_recipe()
    settings = make_settings(server.base_url).model_copy(update={"batch_rows": 8})
    spec = InputSpec(location=str(world / "prompts.jsonl"))
    receipt, work = build(root, recipe, settings, spec)
    write_catalog(root)
    return root, recipe, settings, spec, receipt, work


def calls(work):
    return {stage: work.progress.stages[stage].calls for stage in CALLED}


def contents(root, *names):
    return {name: query(root, f"SELECT * FROM {name} ORDER BY ALL").to_pylist() for name in names}


@pytest.mark.slow
def test_a_build_goes_on_over_added_rows_and_is_looked_after(built, build, world, tmp_path):
    root, recipe, settings, spec, receipt, work = built
    assert receipt["kept"] == query(root, "SELECT * FROM preferences").num_rows > 0
    assert all(calls(work).values())
    again, second = build(root, recipe, settings, spec)
    assert (again["dataset"], sum(calls(second).values())) == (receipt["dataset"], 0)

    line = json.loads((world / "prompts.jsonl").read_text().splitlines()[0])
    added = tmp_path / "added.jsonl"
    added.write_text(
        (world / "prompts.jsonl").read_text()
        + json.dumps({**line, "id": "added", "prompt": "Tell me what is to be seen here."})
    )
    _, third = build(root, recipe, settings, InputSpec(location=str(added), images_root=str(world)))
    # The row's own unit and that of its m'; both captions are there.
    assert calls(third) == {"caption": 0, "resample": 4, "extract": 2, "rewrite": 2}

    names = ("images", "answers", "claims", "rewrites", "neighbours", "preferences", "lineage")
    before = contents(root, *names)
    tidied = tidy(root, merge=True, wait=False, say=print)
    assert any(line["parts after"] == 1 < line["parts before"] for line in tidied["tables"])
    assert contents(root, *names) == before
    assert check(root, settings)["faults"] == 0
    image = query(root, "SELECT path FROM images ORDER BY path").column(0)[0].as_py()
    root.write_bytes(image, b"damaged")
    found = check(root, settings)["listed"]
    assert [(fault["kind"], fault["path"]) for fault in found] == [("damaged image", image)]


@pytest.mark.slow
def test_failed_rows_are_asked_afresh(root, world, server, build, make_recipe, make_settings):
    recipe, settings = make_recipe(extract={"max_asks": 1}), make_settings(server.base_url)
    server.set_faults([{"kind": "truncated_json", "next": 3, "role": "claims"}])
    build(root, recipe, settings, InputSpec(location=str(world / "prompts.jsonl")))
    assert query(root, "SELECT * FROM failures").num_rows == 3
    _, work = build(root, recipe, settings, retry=Retry(stage="extract"))
    assert calls(work)["extract"] == 3
    assert query(root, "SELECT * FROM failures").num_rows == 0


@pytest.mark.slow
def test_duckdb_and_training_read_it_and_no_credential_is_in_it(built, tmp_path, caplog, capfd):
    root = built[0]
    kept = query(root, "SELECT count(*) AS n FROM preferences").column(0)[0].as_py()
    local = tmp_path / "catalog.duckdb"
    with caplog.at_level(logging.DEBUG), hold(root, "run", wait=False, say=print):
        write_catalog(root)
    local.write_bytes(root.read_bytes("catalog.duckdb"))
    with duckdb.connect(str(local), read_only=True) as client:  # a plain client, given s3fs
        client.register_filesystem(fsspec.filesystem("s3"))
        assert client.execute("SELECT count(*) FROM preferences").fetchone() == (kept,)

    done = subprocess.run(
        [sys.executable, "-m", "train", "miniature-symmpo", "--data", root.url, "--dry-run"],
        cwd=REPOSITORY, capture_output=True, text=True, check=False, timeout=200,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "rows" in done.stdout

    files = root.walk("")
    assert {"current.json", "catalog.duckdb"} <= files
    assert [path for path in files if SECRET.encode() in root.read_bytes(path)] == []
    assert SECRET not in caplog.text + "".join(capfd.readouterr()) + done.stdout + done.stderr


def test_what_another_process_writes_is_seen_at_once(root):
    root.write_bytes("a/1", b"x")
    assert root.list("a") == ["a/1"]
    code = "import sys; from storage.root import Root; Root(sys.argv[1]).write_bytes('a/2', b'y')"
    subprocess.run([sys.executable, "-c", code, root.url], cwd=REPOSITORY, check=True)
    assert root.list("a") == ["a/1", "a/2"]
    assert root.walk("a") == {"a/1", "a/2"}
    assert root.read_bytes("a/2") == b"y"


def test_a_killed_holder_of_another_process_is_waited_for(root):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, root.url], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout.readline().strip() == "held"
        with (
            pytest.raises(RootBusy, match="run holder"),
            hold(root, "second", wait=False, say=print, lease_s=5),
        ):
            pass
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    said = []
    with hold(root, "third", wait=True, say=said.append, lease_s=5):
        assert root.read_json(max(root.list("leases")))["run"] == "third"
    assert len(said) <= 1


def test_of_many_takers_at_once_one_has_the_root(root):
    leases = [Lease(Root(root.url), {"run": str(n)}, 60, 15) for n in range(8)]
    start, taken = threading.Barrier(len(leases)), []

    def take(lease):
        start.wait()
        taken.append(lease.take())

    threads = [threading.Thread(target=take, args=(lease,)) for lease in leases]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(taken) == [False] * 7 + [True]


def test_a_store_that_overwrites_silently_is_refused(root, monkeypatch):
    opened = type(root.fs).open

    def overwriting(self, path, mode="rb", **options):
        return opened(self, path, mode.replace("x", "w"), **options)

    monkeypatch.setattr(type(root.fs), "open", overwriting)
    with (
        pytest.raises(StorageError, match="two runs could not be kept apart"),
        hold(root, "run", wait=False, say=print),
    ):
        pass


def test_a_bucket_or_a_server_that_is_not_there_is_one_clear_error(root, monkeypatch):
    with pytest.raises(StorageError, match="bucket does not exist"):
        Root("s3://no-such-bucket/set").write_bytes("a", b"x")
    root.fs.clear_instance_cache()
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    gone = Root(root.url)
    for use in (gone.exists, gone.list, gone.read_bytes, gone.read_json):
        with pytest.raises(StorageError, match="Could not connect"):
            use("a")
    gone.fs.clear_instance_cache()


def test_a_password_in_the_url_is_refused_and_not_repeated():
    with pytest.raises(StorageError, match="password in it") as refused:
        Root(f"s3://id:{SECRET}@bucket/set")
    assert SECRET not in str(refused.value)
