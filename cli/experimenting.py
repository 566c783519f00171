"""Starts the experiment as a process of its own: the command line knows nothing of training."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence

import typer


def run(arguments: Sequence[str]) -> None:
    """Runs `python -m experiments` and ends as it ended. Raises typer.Exit with its exit code."""
    ended = subprocess.run([sys.executable, "-m", "experiments", *arguments], check=False)
    if ended.returncode:
        raise typer.Exit(ended.returncode)
