"""A small dataset and a tiny LLaVA on disk, and runs over them."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa

sys.path.insert(0, str(Path(__file__).parent))
from train_helpers import make_model, make_processor, picture

from storage import parts
from storage.root import Root
from storage.schemas import PREFERENCES
from train.recipe import parse_recipe

REPOSITORY = Path(__file__).parents[2]
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


def values(model, objective="symmpo", **sections):
    """A recipe's values: four steps of four rows in two or three forwards, float32."""
    base = {
        "name": "test",
        "model": {"path": model, "dtype": "float32", "precision": "no"},
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


def recipe(model, objective="symmpo", **sections):
    return parse_recipe(values(model, objective, **sections))


def metrics(out):
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def losses(out):
    return [line["loss"] for line in metrics(out)]


def command(*arguments, processes=1):
    launch = ["-m", "train"]
    if processes > 1:
        launch = [
            "-m", "accelerate.commands.launch", "--cpu", "--num_processes", str(processes),
            "--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no",
            "--main_process_port", "0", "-m", "train",
        ]  # fmt: skip
    return [sys.executable, *launch, *map(str, arguments)]


def start(*arguments, processes=1, **options):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    return subprocess.Popen(
        command(*arguments, processes=processes),
        cwd=REPOSITORY,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        **options,
    )
