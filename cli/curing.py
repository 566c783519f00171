"""The demo's second half: SymMPO on the dataset just built, and what it changed.

The reference model is trained as any model is, by `vispref train`; before and after it describes
scenes that nothing before has seen (miniature.making.compare).
"""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

from rich.table import Table

from cli.results import console
from cli.training import run_training

RECIPE = "miniature-symmpo"
SCENES = 200
EXAMPLES = 2


def train_and_compare(root: Path, reference: Path, out: Path, scenes: int = SCENES) -> None:
    """Trains `reference` on the dataset under `root` into `out`; prints before, after, examples."""
    from miniature.making.compare import compare

    say = console()
    say.print("\n[bold]Training the reference model on these pairs[/] (SymMPO)")
    run_training(RECIPE, str(root), out, [f"model.path={reference}"], False)
    found = compare(reference, out / "model", scenes)
    say.print(f"\n[bold]Before and after[/], {scenes} scenes of the split `test`, in percent")
    say.print(_table(found.before.scores, found.after.scores))
    say.print("A fault that was planted in a small world is cured: the machinery works. No paper's")
    say.print("figures are replicated here.")
    for scene, old, new in found.cured()[:EXAMPLES]:
        say.print(f"\n[bold]In the picture[/]  {'; '.join(scene.objects)}")
        say.print(f"  before  [red]{old}[/]")
        say.print(f"  after   [green]{new}[/]")


def _table(before: Any, after: Any) -> Table:
    from tasks.training import SCORES  # brings Prefect, which must find its settings made

    table = Table("", box=None, pad_edge=False)
    for name in ("before", "after"):
        table.add_column(name, justify="right", no_wrap=True)
    for part in fields(before):
        row = [getattr(scores, part.name) for scores in (before, after)]
        table.add_row(SCORES[part.name], *("-" if v is None else f"{v:.1f}" for v in row))
    return table
