"""The demo's second half: SymMPO on the dataset just built, and what it changed.

The reference model is trained as any model is, by `vispref train`; before and after it describes
scenes of the split `test`, which neither the dataset nor the models' training has seen.
"""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

from rich.table import Table

from cli.results import console
from cli.training import run_training

RECIPE = "miniature-symmpo"
SCENES, SCENES_SEED = 200, 1
EXAMPLES = 2
NAMES = {
    "chair_s": "descriptions with an object that is not there (CHAIRs)",
    "chair_i": "named objects that are not there (CHAIRi)",
    "coverage": "objects of the scenes that are named",
    "exact": "descriptions that are exact",
    "yes_no": "yes/no questions answered rightly",
    "others": "other questions answered rightly",
}


def train_and_compare(root: Path, reference: Path, out: Path, scenes: int = SCENES) -> None:
    """Trains `reference` on the dataset under `root` into `out`; prints before, after, examples."""
    say = console()
    say.print("\n[bold]Training the reference model on these pairs[/] (SymMPO)")
    run_training(RECIPE, str(root), out, [f"model.path={reference}"], False)
    before, after = (answer(model, scenes) for model in (reference, out / "model"))
    say.print(f"\n[bold]Before and after[/], {scenes} scenes of the split `test`, in percent")
    say.print(_table(before, after))
    say.print("A fault that was planted in a small world is cured: the machinery works. No paper's")
    say.print("figures are replicated here.")
    for scene, old, new in cured(before, after)[:EXAMPLES]:
        say.print(f"\n[bold]In the picture[/]  {'; '.join(scene.objects)}")
        say.print(f"  before  [red]{old}[/]")
        say.print(f"  after   [green]{new}[/]")


def answer(model: Path, scenes: int) -> dict[str, Any]:
    """One model's greedy descriptions of test scenes, and its scores (miniature.scoring)."""
    from miniature.making import evaluate
    from miniature.questions import Question, prompt
    from miniature.scenes import make_scenes

    made = make_scenes(scenes, SCENES_SEED, "test")
    network, processor = evaluate.load(model)
    asked = prompt(Question("describe"))
    texts = evaluate.answers(network, processor, [(scene.picture(), asked) for scene in made])
    scores = evaluate.measure(network, processor, made, SCENES_SEED)
    return {"scenes": made, "texts": texts, "scores": scores}


def cured(before: dict[str, Any], after: dict[str, Any]) -> list[tuple[Any, str, str]]:
    """Scene, old and new description, where only the old one names an object that is not there."""
    from miniature.scoring import hallucinated

    return [
        (scene, old, new)
        for scene, old, new in zip(before["scenes"], before["texts"], after["texts"], strict=True)
        if hallucinated(old, scene) and not hallucinated(new, scene)
    ]


def _table(before: dict[str, Any], after: dict[str, Any]) -> Table:
    table = Table("", box=None, pad_edge=False)
    for name in ("before", "after"):
        table.add_column(name, justify="right", no_wrap=True)
    for part in fields(before["scores"]):
        row = [getattr(found["scores"], part.name) for found in (before, after)]
        table.add_row(NAMES[part.name], *("-" if v is None else f"{v:.1f}" for v in row))
    return table
