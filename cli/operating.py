"""The commands that start, stop and look at what a machine runs. Heavy imports wait, as in main."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

State = Annotated[
    Path | None,
    typer.Option(
        help="Holds what runs, its logs and Prefect's database; the usual places if not given."
    ),
]


def up(
    port: Annotated[int, typer.Option(help="The Prefect server's port.", min=1, max=65535)] = 4200,
    host: Annotated[
        str, typer.Option(help="Its address; others than loopback need a password.")
    ] = "127.0.0.1",
    state: State = None,
    detach: Annotated[bool, typer.Option("--detach", help="Return when all is ready.")] = False,
) -> None:
    """Start Prefect, workers, deployments and model servers on this machine; keep them running."""
    from operate import up as operation

    options = operation.Options(host, port, state)
    (operation.detach if detach else operation.up)(options, typer.echo)


def down(state: State = None) -> None:
    """Stop what vispref up runs; runs under way can be retried."""
    from operate import down as operation

    operation.down(state, typer.echo)


def doctor(
    root: Annotated[
        str | None, typer.Option("--root", help="A dataset whose room and models are looked at.")
    ] = None,
    recipe: Annotated[
        str | None,
        typer.Option(help="The recipe whose models must be served; the root's if not given."),
    ] = None,
    settings: Annotated[
        Path | None, typer.Option(help="A YAML file under the VISPREF_ environment.")
    ] = None,
    state: State = None,
) -> None:
    """Check settings, endpoints, disks, GPUs, versions and Prefect; say how to mend what is wrong."""
    from cli.doctoring import print_findings
    from operate.doctor import examine

    if not print_findings(examine(root, recipe, settings, state)):
        raise typer.Exit(1)
