"""From names to directories: local ones, and repositories of a real server over loopback."""

import hashlib
import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from config.errors import RecipeError
from models.hub import no_weights, read_json, resolve

ROOT = Path(__file__).parents[2]
COMMITS = {"main": "a" * 40, "v1": "b" * 40}
FILES = {
    "config.json": b"{}",
    "model.safetensors": b"weights",
    "pytorch_model.bin": b"a pickle",
    "modeling.py": b"raise SystemExit",
}
RESOLVE = """
import json, sys
from config.errors import RecipeError
from models.hub import resolve
try:
    found = resolve(sys.argv[1], ["*.json", "*.safetensors"])
    held = sorted(path.name for path in found.directory.iterdir())
    print(json.dumps([found.name, found.directory.name, held]))
except RecipeError as error:
    print(json.dumps(str(error)))
"""


class Hub(BaseHTTPRequestHandler):
    """The three questions that a snapshot asks of a hub; knows the repository "own/er" only."""

    served: list[str]

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        headers = {}
        if path.startswith("/api/models/own/er/revision/"):
            commit = COMMITS.get(path.rpartition("/")[2])
            siblings = [{"rfilename": name} for name in FILES]
            body = json.dumps({"id": "own/er", "sha": commit, "siblings": siblings}).encode()
            known = commit is not None
        elif path.startswith("/api/models/own/er/tree/"):
            entries = [
                {"type": "file", "path": name, "size": len(data), "oid": "0"}
                for name, data in FILES.items()
            ]
            body, known = json.dumps(entries).encode(), True
        elif path.startswith("/own/er/resolve/"):
            commit, name = path.split("/")[4:6]
            body, known = FILES[name], True
            headers = {
                "ETag": f'"{hashlib.sha256(body).hexdigest()}"',
                "X-Repo-Commit": commit,
            }
            self.served.append(name)
        else:
            body, known = b"{}", False
        self.send_response(200 if known else 404)
        for key, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)


@pytest.fixture
def hub():
    handler = type("OwnHub", (Hub,), {"served": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    server.served = handler.served
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def resolve_elsewhere(model, endpoint, cache):
    """`resolve` in a process of its own: the hub's client reads its settings when imported."""
    environment = {
        **os.environ,
        "HF_ENDPOINT": endpoint,
        "HF_HUB_CACHE": str(cache),
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }
    done = subprocess.run(
        [sys.executable, "-c", RESOLVE, model],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return json.loads(done.stdout)


def test_a_repository_is_fetched_without_its_pickles_and_code_and_works_offline_then(hub, tmp_path):
    endpoint = f"http://127.0.0.1:{hub.server_port}"
    expected = ["own/er@v1", COMMITS["v1"], ["config.json", "model.safetensors"]]
    assert resolve_elsewhere("own/er@v1", endpoint, tmp_path) == expected
    assert set(hub.served) == {"config.json", "model.safetensors"}
    # Port 9 (discard) of loopback: nothing listens there.
    assert resolve_elsewhere("own/er@v1", "http://127.0.0.1:9", tmp_path) == expected


@pytest.mark.parametrize("model", ["own/other", "own/er@v2"])
def test_a_repository_or_revision_that_is_not_there_is_named(hub, tmp_path, model):
    message = resolve_elsewhere(model, f"http://127.0.0.1:{hub.server_port}", tmp_path)
    assert repr(model) in message
    assert "could not be fetched" in message
    assert "give a local directory" in message


def test_without_a_network_the_error_says_what_was_tried(tmp_path):
    message = resolve_elsewhere("own/er", "http://127.0.0.1:9", tmp_path)
    assert "the Hugging Face repository 'own/er' could not be fetched" in message
    assert "give a local directory" in message


def test_a_local_directory_goes_by_its_own_name(tmp_path, monkeypatch):
    (tmp_path / "models" / "tiny").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    for given in (str(tmp_path / "models" / "tiny"), "models/tiny", "./models/../models/tiny/"):
        found = resolve(given, ["*.json"])
        assert found.name == "tiny"
        assert found.directory == (tmp_path / "models" / "tiny").resolve()


@pytest.mark.parametrize("model", ["/no/such/place", "../x", "alone", "a/b/c", "own/er@", "~/x y"])
def test_what_is_neither_a_directory_nor_a_repository_is_refused(model):
    with pytest.raises(RecipeError, match="does not exist here"):
        resolve(model, ["*.json"])


@pytest.mark.parametrize("model", ["", " "])
def test_an_empty_name_is_not_the_current_directory(model):
    with pytest.raises(RecipeError, match="is empty"):
        resolve(model, ["*.json"])


def test_a_file_is_no_model(tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"")
    with pytest.raises(RecipeError, match="is a file"):
        resolve(str(path), ["*.json"])


def test_json_that_is_missing_broken_or_no_object_is_named(tmp_path):
    with pytest.raises(RecipeError, match=r"has no config\.json"):
        read_json(tmp_path / "config.json")
    for data in (b"{", b'{"a": "\xff"}'):
        (tmp_path / "config.json").write_bytes(data)
        with pytest.raises(RecipeError, match="cannot be read as JSON"):
            read_json(tmp_path / "config.json")
    (tmp_path / "config.json").write_text("[1]")
    with pytest.raises(RecipeError, match="holds a list"):
        read_json(tmp_path / "config.json")


@pytest.mark.parametrize("pickle", ["pytorch_model.bin", "model.pt", "model.PTH", "x.ckpt"])
def test_the_error_for_missing_weights_names_the_pickles(tmp_path, pickle):
    (tmp_path / pickle).write_bytes(b"")
    message = str(no_weights(tmp_path, "model.safetensors"))
    assert pickle in message
    assert "never loaded" in message
    assert "convert" in message
