"""A small dataset and a tiny LLaVA on disk, and runs over them."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import socket
import sys
import time
from pathlib import Path

import pyarrow as pa
from accelerate.state import AcceleratorState

sys.path.insert(0, str(Path(__file__).parent))
from train_helpers import make_model, make_processor, picture

from config.errors import VisprefError
from storage import parts
from storage.root import Root
from storage.schemas import PREFERENCES
from train.loop import Stopped, train
from train.recipe import parse_recipe

DIGEST = "d" * 32
LETTERS = "abcdefghijklmnop"


def write_dataset(folder, rows=10):
    """`rows` rows, each with images and texts of its own and of its own length."""
    root = Root(folder)
    records = []
    for n in range(rows):
        names = [f"images/{n:02d}/{n:02d}{side}.png" for side in "ab"]
        for k, name in enumerate(names):
            root.write_bytes(name, picture(2 * n + k, (16, 16)))
        records.append(
            {
                "row_id": f"row-{n}",
                "split": "train",
                "prompt": "describe " + " ".join(LETTERS[: 1 + n % 5]),
                "image": f"{n:02d}a",
                "image_path": names[0],
                "neighbour": f"{n:02d}b",
                "neighbour_path": names[1],
                "chosen": " ".join(LETTERS[n % 7 : n % 7 + 3]),
                "rejected": " ".join(LETTERS[n % 5 : n % 5 + 4]),
                "neighbour_chosen": " ".join(LETTERS[n % 3 : n % 3 + 2 + n % 4]),
            }
        )
    data = parts.to_parquet(pa.Table.from_pylist(records, schema=PREFERENCES))
    path = "preferences/part-00000.parquet"
    root.write_bytes(f"datasets/{DIGEST}/{path}", data)
    file = {"path": path, "rows": rows, "sha256": hashlib.sha256(data).hexdigest()}
    root.write_json(f"datasets/{DIGEST}/manifest.json", {"files": [file], "digest": DIGEST})
    root.write_json("current.json", {"ingest": None, "digests": {}, "dataset": DIGEST})
    return root


def write_model(folder, family="llava"):
    make_model(family).save_pretrained(folder)
    make_processor(family).save_pretrained(folder)
    return str(folder)


def values(path, objective="symmpo", **sections):
    """A recipe's values: four steps of four rows in two or three forwards, float32."""
    base = {
        "name": "test",
        "model": {"path": path, "dtype": "float32", "precision": "no"},
        "trained": {"method": "full", "parts": ["language", "projector"]},
        "objective": {"name": objective},
        "reference": {"kind": "none" if objective == "sft" else "cache"},
        "data": {"max_tokens": 200},
        "batch": {"rows": 4, "tokens": 150, "gradient_checkpointing": False},
        "optimiser": {"learning_rate": 1e-3, "epochs": 2},
        "checkpoints": {"every": 2, "export": False},
    }
    for name, section in sections.items():
        base[name] = {**base[name], **section} if name in base else section
    return base


def recipe(path, objective="symmpo", **sections):
    return parse_recipe(values(path, objective, **sections))


def metrics(out):
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def losses(out):
    return [line["loss"] for line in metrics(out)]


def run_process(recipe, root, out, rank, count, port):
    """Trains in this forked process; exit code 0, 130 when stopped, 1 with the error in out/error."""
    os.environ |= {
        "ACCELERATE_USE_CPU": "true", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
        "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(count),
    }  # fmt: skip
    if count == 1:
        for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE"):
            os.environ.pop(name)
    AcceleratorState._reset_state(reset_partial_state=True)
    try:
        train(recipe, root, out)
    except Stopped as stopped:
        (out / "error").write_text(str(stopped))
        os._exit(130)
    except VisprefError as error:
        (out / "error").write_text(str(error))
        os._exit(1)
    os._exit(0)


def start(recipe, root, out, processes=1):
    """Forked, because importing torch and transformers anew takes most of a minute on a busy core."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("fork")
    started = [
        context.Process(target=run_process, args=(recipe, root, out, rank, processes, port))
        for rank in range(processes)
    ]
    for process in started:
        process.start()
    return started


def finish(started, seconds=60):
    for process in started:
        process.join(seconds)
        if process.is_alive():
            process.kill()
            raise AssertionError(f"the run did not end within {seconds} s")
    return [process.exitcode for process in started]


def wait_for(condition, process, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert process.is_alive(), f"the run ended with {process.exitcode}"
        assert time.monotonic() < end
        time.sleep(0.01)
