"""The preference dataset of the experiment, built by the real pipeline, and variants of its rows."""

from __future__ import annotations

import hashlib
import io
import json
import os
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from cli.demonstration import served, write_recipe
from cli.running import run_build, source_of
from config.digest import digest
from config.errors import StorageError
from config.settings import ROLES
from experiments.plan import NEAREST, RANDOM
from miniature.questions import WORDINGS, draw_question, prompt
from miniature.scenes import Scene, make_scenes
from storage import parts
from storage.catalog import read_current
from storage.root import Root

SPLIT, SEED = "train", 7  # scenes like those the models were trained on, and none of them
DESCRIBING = ("describe", "thorough")
ASKING = ("relate", "count", "yes_no", "at")
K = 5
HELD_OUT = 0.2


def build(folder: Path, weights: Path, scenes: int) -> dict[str, str]:
    """Dataset digests of the variants by name; built once, found again afterwards.

    Raises what `vispref build` raises, InputError for missing weights, StorageError for a folder
    that holds another experiment's dataset.
    """
    folder = folder.absolute()
    about = {"scenes": scenes, "k": K, "seed": SEED, "weights": weights_digest(weights)}
    known = folder / "variants.json"
    if known.is_file():
        found = json.loads(known.read_text(encoding="utf-8"))
        if found["about"] != about:
            raise StorageError(
                f"{folder} holds the dataset of {found['about']}, this experiment is of {about}: "
                "give another --out"
            )
        return dict(found["variants"])
    write_world(folder / "world", make_scenes(scenes, SEED, SPLIT))
    recipe = write_recipe(folder, weights, k=K)
    os.environ.setdefault("VISPREF_CACHE_DIR", str(folder / "cache"))
    with served(weights) as base_url:
        for role in ROLES:
            os.environ[f"VISPREF_{role.upper()}__BASE_URL"] = base_url
        source = source_of(str(folder / "world" / "prompts.jsonl"), None, None, None, None, None)
        split = f"{{train: {1 - HELD_OUT}, validation: {HELD_OUT}, test: 0.0}}"
        run_build(
            str(root_of(folder)), str(recipe), [f"assemble.split={split}"], source, None, "wait"
        )
    variants = write_variants(Root(root_of(folder)))
    known.write_text(json.dumps({"about": about, "variants": variants}, indent=1), encoding="utf-8")
    return variants


def root_of(folder: Path) -> Path:
    return folder / "root"


def weights_digest(weights: Path) -> str:
    """Of the files of the two language models."""
    files = [path for name in ("captioner", "reference") for path in (weights / name).iterdir()]
    return digest({
        f"{path.parent.name}/{path.name}": hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
    })  # fmt: skip


def write_world(folder: Path, scenes: Sequence[Scene]) -> None:
    """Images and prompts.jsonl: each scene is described once and asked one question of a kind."""
    draw = random.Random(SEED)
    (folder / "images").mkdir(parents=True, exist_ok=True)
    lines = []
    for number, scene in enumerate(scenes):
        name = f"scene-{number:05d}"
        (folder / "images" / f"{name}.png").write_bytes(scene.render())
        for kind in (draw.choice(DESCRIBING), ASKING[number % len(ASKING)]):
            asked = draw_question(kind, scene.things, draw)
            text = prompt(asked, draw.randrange(len(WORDINGS[kind])))
            line = {"id": f"{name}-{kind}", "image": f"images/{name}.png", "prompt": text}
            lines.append(json.dumps(line) + "\n")
    (folder / "prompts.jsonl").write_text("".join(lines), encoding="utf-8")


def write_variants(root: Root) -> dict[str, str]:
    """The dataset as it was mined, and one whose neighbours are drawn at random, beside it."""
    nearest = read_current(root)["dataset"]
    rows = read_rows(root, nearest)
    changed, kept = random_neighbours(rows, SEED)
    print(f"random neighbours: {len(rows) - kept} of {len(rows)} rows; {kept} have no other answer")
    return {NEAREST: nearest, RANDOM: write_dataset(root, changed)}


def read_rows(root: Root, dataset: str) -> list[dict[str, Any]]:
    """All records of a dataset's `preferences`."""
    manifest = root.read_json(f"datasets/{dataset}/manifest.json")
    tables = [
        pq.read_table(io.BytesIO(root.read_bytes(f"datasets/{dataset}/{part['path']}")))
        for part in manifest["files"]
        if part["path"].startswith("preferences/")
    ]
    return list(pa.concat_tables(tables).to_pylist())


def random_neighbours(
    rows: Sequence[dict[str, Any]], seed: int
) -> tuple[list[dict[str, Any]], int]:
    """Rows with m' and y'_w of another row of the same prompt and split, drawn by `seed`.

    Any image that has an answer to the prompt may be drawn but the row's own and its nearest. A row
    without one keeps its neighbour; the second value counts these.
    """
    draw = random.Random(seed)
    answers: dict[tuple[str, str], dict[str, tuple[str, str]]] = {}
    for row in rows:
        found = answers.setdefault((row["prompt"], row["split"]), {})
        for slot, text in (("image", "chosen"), ("neighbour", "neighbour_chosen")):
            if row[text]:
                found.setdefault(row[slot], (row[f"{slot}_path"], row[text]))
    changed, kept = [], 0
    for row in rows:
        found = answers[row["prompt"], row["split"]]
        others = sorted(found.keys() - {row["image"], row["neighbour"]})
        if not others:
            kept += 1
            changed.append(dict(row))
            continue
        image = draw.choice(others)
        path, text = found[image]
        new = {"neighbour": image, "neighbour_path": path, "neighbour_chosen": text}
        gone = dict.fromkeys(
            ("neighbour_rejected", "clip_cosine", "dino_cosine", "neighbour_rewrite_id")
        )
        changed.append({**row, **gone, **new, "strategy": RANDOM})
    return changed, kept


def write_dataset(root: Root, rows: Sequence[dict[str, Any]]) -> str:
    """Writes rows as a dataset of their own, which training finds by the digest this gives."""
    from storage.schemas import PREFERENCES

    data = parts.to_parquet(pa.Table.from_pylist(list(rows), schema=PREFERENCES))
    content = hashlib.sha256(data).hexdigest()
    name, path = content[:32], "preferences/part-00000.parquet"
    root.write_bytes(f"datasets/{name}/{path}", data)
    file = {"path": path, "rows": len(rows), "sha256": content}
    root.write_json(f"datasets/{name}/manifest.json", {"digest": name, "files": [file]})
    return name
