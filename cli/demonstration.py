"""The demo: the main job from nothing to a dataset and its report, offline.

All models but one are real and tiny: the encoders, and the captioner and the reference model,
which a small server serves through transformers. The claim model is a rule over the small language
of the scenes. Everything else is what a real run uses.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.table import Table

from cli.reporting import write_report
from cli.results import console, print_query
from cli.running import run_build, source_of
from cli.showing import print_row
from config.errors import EndpointDown, InputError
from config.settings import ROLES
from storage.catalog import query
from storage.root import Root

WEIGHTS = Path(__file__).parents[1] / "miniature" / "weights"
MODELS = ("clip", "dino", "captioner", "reference")
SPLIT = "validation"  # the models were trained on scenes of the split `train`
CAPTION_PROMPT = "[user]\nDescribe everything in the picture and count the objects.\n"
TEXTS = {"chosen": "image", "rejected": "image", "neighbour_chosen": "neighbour"}
NOTES = (
    "Real: the whole pipeline; CLIP, DINOv2, captioner and reference model are trained models in "
    "the real architectures, tiny, and the reference's hallucinations are its own.",
    "Stands in: a small server for vLLM; a rule over the small language of the scenes for the "
    "claim model (DeepSeek); drawn scenes for photographs. The fault in the reference was planted "
    "by its training data: this demonstrates the machinery and replicates no paper's figures.",
)
PAIR_SQL = "SELECT row_id FROM preferences ORDER BY length(rejected) DESC, row_id LIMIT 1"
EXAMPLE_SQL = (
    "SELECT split, count(*) AS rows, avg(length(chosen)) AS chosen_characters, "
    "avg(length(rejected)) AS rejected_characters FROM preferences GROUP BY split"
)


def run(folder: Path, scenes: int, seed: int = 0, weights: Path = WEIGHTS) -> None:
    """Draws the world, serves the models, builds the dataset, and shows what came of it.

    Raises InputError where a model's folder is missing from `weights`.
    """
    out = console()
    for note in NOTES:
        out.print(note)
    folder = folder.absolute()
    world, root = folder / "world", folder / "dataset"
    out.print(f"\nDrawing {scenes} scenes in {folder} ...")
    truth = draw(world, scenes, seed)
    recipe = write_recipe(folder, weights)
    os.environ.setdefault("VISPREF_CACHE_DIR", str(folder / "cache"))
    with served(weights) as base_url:
        for role in ROLES:
            os.environ[f"VISPREF_{role.upper()}__BASE_URL"] = base_url
        source = source_of(str(world / "prompts.jsonl"), None, None, None, None, None)
        run_build(str(root), str(recipe), None, source, None, "wait")
    out.print("\n[bold]One of its pairs[/]")
    found = query(Root(root), PAIR_SQL).to_pylist()
    if found:
        print_row(str(root), found[0]["row_id"])
    out.print("\n[bold]Held against the scenes' exact truth[/], which the pipeline never saw")
    out.print(_table(truths(Root(root), truth)))
    out.print(f'\n[bold]Try[/]  .venv/bin/vispref query --root {root} "{EXAMPLE_SQL}"')
    print_query(str(root), EXAMPLE_SQL, None)
    write_report(str(root), folder / "report.html", notes=NOTES)


def draw(world: Path, scenes: int, seed: int) -> dict[str, Any]:
    """Writes the scenes and their prompts; gives each scene by its image's digest."""
    from miniature.scenes import make_scenes, write_world

    annotations = write_world(world, scenes, seed, SPLIT)
    made = make_scenes(scenes, seed, SPLIT)
    return {note.sha256: scene for note, scene in zip(annotations, made, strict=True)}


def write_recipe(folder: Path, weights: Path, k: int = 4) -> Path:
    """The demo's recipe and its prompt, as a user would write them. Raises InputError."""
    for name in MODELS:
        if not (weights / name).is_dir():
            raise InputError(
                f"{weights / name} is missing: train the demo's models with "
                "python -m miniature.making, or restore the folder"
            )
    folder.mkdir(parents=True, exist_ok=True)
    prompt, recipe = folder / "caption.txt", folder / "recipe.yaml"
    prompt.write_text(CAPTION_PROMPT, encoding="utf-8")
    values = {"clip": weights / "clip", "dino": weights / "dino", "prompt": prompt, "k": k}
    recipe.write_text(RECIPE.format(**values), encoding="utf-8")
    return recipe


def truths(root: Root, truth: dict[str, Any]) -> list[dict[str, Any]]:
    """How much of each kind of text is false of its scene: claims, and texts with any."""
    from miniature.language import holds, parse

    rows = query(root, "SELECT * FROM preferences").to_pylist()
    found = []
    for side, image in TEXTS.items():
        claims = false = with_false = texts = 0
        for row in rows:
            if row[side] is None:
                continue
            things = truth[row[image]].things
            stated = [claim.fact for claim in parse(row[side])]
            wrong = sum(fact is None or not holds(fact, things) for fact in stated)
            texts, claims, false = texts + 1, claims + len(stated), false + wrong
            with_false += bool(wrong)
        found.append(
            {"text": side, "texts": texts, "with a false claim": with_false,
             "claims": claims, "false": false}
        )  # fmt: skip
    return found


def _table(rows: Sequence[dict[str, Any]]) -> Table:
    table = Table("text", box=None, pad_edge=False)
    for name in ("texts", "with a false claim", "claims", "false", "false %"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        share = 100 * row["false"] / row["claims"] if row["claims"] else 0.0
        table.add_row(*(str(value) for value in row.values()), f"{share:.1f}")
    return table


@contextmanager
def served(weights: Path) -> Iterator[str]:
    """The miniature world's model server as a process of its own; gives its base URL."""
    command = [sys.executable, "-m", "miniature.server", "--captioner", str(weights / "captioner")]
    process = subprocess.Popen(
        [*command, "--reference", str(weights / "reference")],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "HF_HUB_DISABLE_PROGRESS_BARS": "1", "TQDM_DISABLE": "1"},
    )
    try:
        base_url = process.stdout.readline().strip() if process.stdout else ""
        if not base_url:
            raise EndpointDown("the model server ended before it served; its error is above")
        yield base_url
    finally:
        process.terminate()
        process.wait()


RECIPE = """\
# The demo's recipe: the SymMPO recipe in small, for the miniature world's models.
name: demo
embed:
  clip_model: {clip}
  dino_model: {dino}
mine:
  strategy: nearest
  # The tiny CLIP sees which objects there are and not where, so different scenes come very near.
  near_duplicate: 0.9999
caption:
  model: miniature-captioner
  prompt: {prompt}
  max_tokens: 128
resample:
  model: miniature-reference
  k: {k}
  temperature: 1.0
  max_tokens: 128
extract:
  model: miniature-claims
rewrite:
  model: miniature-claims
assemble:
  # A description has up to six true claims, and often a single false one.
  max_length_ratio: 6.0
  split: {{train: 0.9, validation: 0.1, test: 0.0}}
"""
