"""The demo: the main job from nothing to a dataset, offline.

The encoders are the real open_clip and DINOv2 classes with tiny random weights, and the three
model roles are answered by a rule-based stand-in that knows what each scene holds. Everything
else is what a real run uses.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cli.results import console, print_query
from cli.running import run_build, source_of
from cli.showing import print_row
from config.errors import EndpointDown
from config.settings import ROLES
from storage.catalog import query
from storage.root import Root

PAIR_SQL = "SELECT row_id FROM preferences ORDER BY length(rejected) DESC, row_id LIMIT 1"
EXAMPLE_SQL = (
    "SELECT split, count(*) AS rows, avg(length(chosen)) AS chosen_characters, "
    "avg(length(rejected)) AS rejected_characters FROM preferences GROUP BY split"
)


def run(folder: Path, scenes: int, seed: int = 0) -> None:
    """Draws the world, serves the stand-in, builds the dataset, and shows what came of it."""
    from miniature.checkpoints import make_clip, make_dino
    from miniature.scenes import write_world

    out = console()
    folder = folder.absolute()
    world, models, root = folder / "world", folder / "models", folder / "dataset"
    out.print(f"Drawing {scenes} scenes and making two tiny encoders in {folder} ...")
    write_world(world, scenes, seed)
    make_clip(models / "clip", seed)
    make_dino(models / "dino", seed)
    recipe = folder / "recipe.yaml"
    recipe.write_text(RECIPE.format(clip=models / "clip", dino=models / "dino"), encoding="utf-8")
    os.environ.setdefault("VISPREF_CACHE_DIR", str(folder / "cache"))
    with stand_in(world / "annotations.jsonl") as base_url:
        for role in ROLES:
            os.environ[f"VISPREF_{role.upper()}__BASE_URL"] = base_url
        source = source_of(str(world / "prompts.jsonl"), None, None, None, None, None)
        run_build(str(root), str(recipe), None, source, None, "wait")
    out.print("\n[bold]One of its pairs[/]")
    found = query(Root(root), PAIR_SQL).to_pylist()
    if found:
        print_row(str(root), found[0]["row_id"])
    out.print(f'\n[bold]Try[/]  .venv/bin/vispref query --root {root} "{EXAMPLE_SQL}"')
    print_query(str(root), EXAMPLE_SQL, None)


@contextmanager
def stand_in(annotations: Path) -> Iterator[str]:
    """The stand-in model server as a process of its own; gives its base URL."""
    process = subprocess.Popen(
        [sys.executable, "-m", "miniature.server", "--annotations", str(annotations)],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        base_url = process.stdout.readline().strip() if process.stdout else ""
        if not base_url:
            raise EndpointDown("the stand-in server ended before it served; its error is above")
        yield base_url
    finally:
        process.terminate()
        process.wait()


RECIPE = """\
# The demo's recipe: the SymMPO recipe in small, for the stand-in models.
name: demo
embed:
  clip_model: {clip}
  dino_model: {dino}
mine:
  strategy: nearest
  # Encoders with random weights find all scenes alike, so the ceiling is high.
  near_duplicate: 0.99999
caption:
  model: stand-in-captioner
resample:
  model: stand-in-reference
  k: 4
  max_tokens: 256
extract:
  model: stand-in-claims
rewrite:
  model: stand-in-claims
assemble:
  split: {{train: 0.9, validation: 0.1, test: 0.0}}
"""
