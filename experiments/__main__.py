"""`python -m experiments --out DIR`: does preference training cure the miniature world's fault?"""

from __future__ import annotations

import argparse
import importlib.util
import os
import signal
import sys
from pathlib import Path

WEIGHTS = Path(__file__).parents[1] / "miniature" / "weights"


def arguments(given: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m experiments", description=__doc__)
    parser.add_argument(
        "--out", type=Path, default=Path("experiment"), help="dataset, runs, report"
    )
    parser.add_argument("--jobs", type=_positive, default=2, help="runs at a time, one core each")
    parser.add_argument("--scenes", type=_positive, default=360, help="scenes of the dataset")
    parser.add_argument("--seeds", type=_positive, default=3, help="of all arms at their rates")
    parser.add_argument(
        "--highest",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="SymMPO and its ablations at the highest rate too",
    )
    parser.add_argument(
        "--weights", type=Path, default=WEIGHTS, help="the miniature models' folder"
    )
    return parser.parse_args(given)


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text}: expected a number of at least 1")
    return value


def _stop(number: int, frame: object) -> None:
    """A signal to end is Ctrl-C: the workers are waited for, and none is left behind."""
    raise KeyboardInterrupt


def main(given: list[str] | None = None) -> int:
    """Exit codes: 0 done, 1 refused or failed, 130 stopped by a signal."""
    options = arguments(given)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TQDM_DISABLE", "1")
    from config.errors import VisprefError
    from experiments.campaign import Size, experiment
    from experiments.report import plot, tables

    if importlib.util.find_spec("matplotlib") is None:
        print("the plot needs matplotlib: install the extra `plots`", file=sys.stderr)
        return 1
    signal.signal(signal.SIGTERM, _stop)
    size = Size(options.scenes, seeds=options.seeds, highest=options.highest)
    try:
        outcome = experiment(options.out, options.weights, size, options.jobs)
    except VisprefError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Stopped. Finished runs are kept; the same command goes on.", file=sys.stderr)
        return 130
    text = tables(outcome)
    (options.out / "report.md").write_text(text, encoding="utf-8")
    plot(outcome, options.out / "chairs-coverage.png")
    print(text)
    print(f"The report and its plot are in {options.out.absolute()}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
