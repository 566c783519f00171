"""Starts training from the command line, as the flow or, for a dry run, as the process alone."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from cli.running import quiet_bars, quiet_prefect, start_embedded_server
from config.errors import RecipeError, TrainingError


def run_training(recipe: str, data: str, out: Path | None, overrides: list[str], dry: bool) -> None:
    """Raises RecipeError without a folder for a real run; else what the flow raises."""
    quiet_prefect()
    quiet_bars()
    from flows.train import TELL, check_dataset, train, training_command

    if dry:
        command = [*training_command(recipe, data, None, overrides), "--dry-run"]
        code = subprocess.run(command, check=False).returncode  # noqa: S603 - our own module
        if code:
            raise TrainingError(f"the dry run ended with code {code}; its words are above")
        return
    if out is None:
        raise RecipeError("--out is needed: where checkpoints, logs and the trained model go")
    check_dataset(data, None)
    TELL.set(lambda line: print(line, flush=True))
    start_embedded_server()
    result = train(data, recipe, out=os.path.abspath(out), overrides=overrides)
    print(f"checkpoint  {result['checkpoint']}")
    if "model" in result:
        print(f"model       {result['model']}")
