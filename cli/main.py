"""The command `vispref`. Heavy imports wait until a command needs them: --help is quick."""

from __future__ import annotations

import atexit
import os
import sys
import tempfile
import traceback
from pathlib import Path
from typing import Annotated

import typer

from cli import operating
from config.errors import RootBusy, StageStopped, VisprefError

app = typer.Typer(
    help="Build symmetric vision-language preference datasets (SymMPO, JoMPO).",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

Root = Annotated[str, typer.Option("--root", help="The dataset: a folder or an fsspec URL.")]
RecipeName = Annotated[
    str | None,
    typer.Argument(help="A recipe's name or YAML file. Left out: the one the root was built with."),
]
Input = Annotated[
    str | None,
    typer.Option("--input", help="A folder or glob of images, a .jsonl, .csv, .parquet or .json "
                 "file, or a `datasets` directory. Left out: the rows the root has."),
]  # fmt: skip
ImagesRoot = Annotated[
    str | None,
    typer.Option(help="Where relative image paths start; the input's folder if not given."),
]
Prompts = Annotated[
    list[str] | None, typer.Option("--prompt", help="A prompt for every image; may be repeated.")
]
PromptsFile = Annotated[
    str | None, typer.Option(help="Prompts for every image: .txt, one a line, or a .json list.")
]
Columns = Annotated[
    list[str] | None,
    typer.Option("--column", help="OURS=YOURS, e.g. prompt=question; ours: image, prompt, id."),
]
Split = Annotated[str | None, typer.Option(help="The split of a `datasets` directory.")]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", help="KEY=VALUE of the recipe, e.g. resample.k=4.")
]
SettingsFile = Annotated[
    Path | None, typer.Option("--settings", help="A YAML file under the VISPREF_ environment.")
]
IfBusy = Annotated[str, typer.Option(help="When another run holds the root: wait or refuse.")]


@app.command()
def build(
    recipe: RecipeName = None,
    *,
    root: Root,
    input: Input = None,
    images_root: ImagesRoot = None,
    prompt: Prompts = None,
    prompts_file: PromptsFile = None,
    column: Columns = None,
    split: Split = None,
    override: Overrides = None,
    settings: SettingsFile = None,
    if_busy: IfBusy = "wait",
) -> None:
    """Build the dataset, or go on with it: only what is pending is done."""
    from cli import running

    source = running.source_of(input, images_root, prompt, prompts_file, column, split)
    running.run_build(root, recipe, override, source, settings, if_busy)


@app.command()
def retry(
    *,
    root: Root,
    stage: Annotated[str | None, typer.Option(help="Only this stage's failed rows.")] = None,
    error_class: Annotated[
        str | None, typer.Option(help="Only rows that failed so, e.g. InvalidAnswer.")
    ] = None,
    settings: SettingsFile = None,
    if_busy: IfBusy = "wait",
) -> None:
    """Ask the failed rows afresh, and go on with what follows from them."""
    from cli import running

    running.run_retry(root, stage, error_class, settings, if_busy)


@app.command()
def plan(
    recipe: RecipeName = None,
    *,
    root: Root,
    input: Input = None,
    images_root: ImagesRoot = None,
    prompt: Prompts = None,
    prompts_file: PromptsFile = None,
    column: Columns = None,
    split: Split = None,
    override: Overrides = None,
    settings: SettingsFile = None,
    retry: Annotated[
        bool, typer.Option("--retry", help="Plan vispref retry: failed rows are asked afresh.")
    ] = False,
) -> None:
    """Show what a build would do, what it would cost, and why. Calls no model."""
    from cli import running, showing

    source = running.source_of(input, images_root, prompt, prompts_file, column, split)
    showing.print_plan(running.plan(root, recipe, override, source, settings, retry))


@app.command()
def status(*, root: Root) -> None:
    """Show what the root holds: rows, stages, failures, cost, and the newest dataset."""
    from cli import showing

    showing.print_status(root)


@app.command()
def query(
    sql: Annotated[
        str, typer.Argument(help='One SELECT, e.g. "SELECT * FROM preferences LIMIT 5".')
    ],
    *,
    root: Root,
    limit: Annotated[
        int | None, typer.Option(help="Rows to show: 50 as table or vertical, else all.", min=1)
    ] = None,
    format: Annotated[
        str,
        typer.Option(
            help="auto (a table, or vertical where it does not fit), table, vertical, csv or json."
        ),
    ] = "auto",
) -> None:
    """Run read-only SQL over the tables' views."""
    from cli import results

    results.print_query(root, sql, limit, format)


@app.command()
def show(
    row: Annotated[str, typer.Argument(help="A row's id, or its first characters.")], *, root: Root
) -> None:
    """Show one pair: both images, the texts, and the claims they came from."""
    from cli import showing

    showing.print_row(root, row)


@app.command()
def report(
    *,
    root: Root,
    out: Annotated[Path, typer.Option(help="The page to write.")] = Path("report.html"),
    pairs: Annotated[int, typer.Option(help="How many pairs to show.", min=1, max=500)] = 24,
    seed: Annotated[int, typer.Option(help="Which pairs are sampled.")] = 0,
) -> None:
    """Write one HTML page about the dataset: pairs, drops, lengths, costs, recipes."""
    from cli import reporting

    reporting.write_report(root, out, pairs, seed)


@app.command()
def maintain(
    *,
    root: Root,
    compact: Annotated[
        bool, typer.Option("--compact/--no-compact", help="Make many small parts few.")
    ] = True,
    verify: Annotated[
        bool, typer.Option("--verify/--no-verify", help="Read everything and check its digests.")
    ] = True,
    settings: SettingsFile = None,
    if_busy: IfBusy = "wait",
) -> None:
    """Remove what killed runs left, merge small parts, check every digest; 1 when faults are found."""
    from cli import maintaining

    maintaining.run_maintain(root, compact, verify, settings, if_busy)


@app.command()
def train(
    *,
    recipe: Annotated[str, typer.Option(help="A training recipe's name or YAML file.")],
    root: Annotated[str, typer.Option("--data", help="The dataset: a folder or an fsspec URL.")],
    out: Annotated[
        Path | None, typer.Option(help="Where checkpoints, logs and the trained model go.")
    ] = None,
    override: Annotated[
        list[str] | None, typer.Option("--set", help="KEY=VALUE of the recipe, e.g. seed=1.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print memory and time estimates; train nothing.")
    ] = False,
) -> None:
    """Train a model on the dataset, or go on with a run that was stopped."""
    from cli import training

    training.run_training(recipe, root, out, override or [], dry_run)


@app.command()
def demo(
    folder: Annotated[Path, typer.Option(help="Where the demo's world and dataset go.")] = Path(
        "demo-dataset"
    ),
    scenes: Annotated[int, typer.Option(help="How many scenes to draw.", min=20)] = 300,
) -> None:
    """Run the main job offline, on scenes this project draws, with tiny real models."""
    from cli import demonstration

    demonstration.run(folder, scenes)


@app.command()
def experiment(
    out: Annotated[Path, typer.Option(help="Dataset, runs and report; a second call goes on.")] = (
        Path("experiment")
    ),
    jobs: Annotated[int, typer.Option(help="Runs at a time, one core each.", min=1)] = 2,
    seeds: Annotated[int, typer.Option(help="Of all arms at their learning rates.", min=1)] = 3,
) -> None:
    """Train the miniature world's model by every method and measure the cure (half an hour)."""
    from cli import experimenting

    experimenting.run(["--out", str(out), "--jobs", str(jobs), "--seeds", str(seeds)])


for command in (operating.up, operating.down, operating.doctor):
    app.command()(command)


STOPPED = "Stopped. What was done is kept; the same command goes on."


def main() -> None:
    """Exit codes: 0 done, 1 refused or failed, 3 stopped (go on with the same command), 4 busy."""
    ended = {"code": 1}
    atexit.register(_leave, ended)
    ended["code"] = run()
    sys.exit(ended["code"])


def _leave(ended: dict[str, int]) -> None:
    """Ends the process after every other exit handler: the first to be registered runs last.

    Past this point the interpreter only tears itself down, and DuckDB's binding then prints pages
    about the tables that a failed run's traceback still holds.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(ended["code"])


def run() -> int:
    """Runs the command line and says an error in one line; gives the exit code."""
    try:
        app()
    except VisprefError as error:
        typer.secho(f"{type(error).__name__}: {error}", fg="red", err=True)
        return 3 if isinstance(error, StageStopped) else 4 if isinstance(error, RootBusy) else 1
    except Exception as error:  # noqa: BLE001 - the outermost place: the trace goes to a file
        typer.secho(unexpected(error), fg="red", err=True)
        return 1
    except KeyboardInterrupt:
        typer.secho(STOPPED, err=True)
        return 130
    except SystemExit as ended:  # the command line's own: 0, 2 when it is wrong, 130 for Ctrl-C
        if ended.code == 130:
            typer.secho(STOPPED, err=True)
        return ended.code if isinstance(ended.code, int) else 0
    return 0


def unexpected(error: Exception) -> str:
    """One line for an error nobody foresaw; its trace is kept in a temporary file it names."""
    with tempfile.NamedTemporaryFile(
        "w", prefix="vispref-error-", suffix=".txt", delete=False, encoding="utf-8"
    ) as file:
        file.write("".join(traceback.format_exception(error)))
    told = " ".join(str(error).split()) or "no message"
    return (
        f"Unexpected {type(error).__name__}: {told}\nWhat was done is kept; the same command goes "
        f"on from there. If it fails again, report it with {file.name}"
    )


if __name__ == "__main__":
    main()
