"""Runs what is pending, some at a time, and goes on where a killed experiment was."""

from __future__ import annotations

import multiprocessing
import sys
import time
from collections.abc import Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments import data
from experiments.plan import ABLATIONS, METHODS, RATES, SYMMPO, Job, chosen_rate, grid

Scores = dict[str, Any]
Results = dict[Job, Scores]


@dataclass(frozen=True)
class Size:
    """How much is run. seeds: of every arm at every rate; more_seeds: SymMPO and its ablations at
    SymMPO's rate have these besides. validation and test count scenes."""

    scenes: int = 360
    seeds: int = 3
    more_seeds: int = 3
    rates: tuple[float, ...] = RATES
    validation: int = 200
    test: int = 400


@dataclass
class Outcome:
    """All results. validation: by run; test: by run at its arm's rate; rates: by arm, the ablations'
    being SymMPO's."""

    base_validation: Scores
    base_test: Scores
    validation: Results
    test: Results
    rates: dict[str, float]


def experiment(out: Path, weights: Path, size: Size, jobs: int) -> Outcome:
    """The whole experiment under `out`. Raises what building, training and measuring raise."""
    out = out.absolute()
    variants = data.build(out / "dataset", weights, size.scenes)
    from experiments import running  # torch's threads are set in the workers

    setting = running.Setting(out, weights.absolute(), variants, (size.validation, size.test))
    with pool(jobs) as workers:
        base = workers.submit(running.base_on_validation, setting)
        base_test = workers.submit(running.test_run, None, setting)
        runs = grid([*METHODS, *ABLATIONS], size.rates, range(size.seeds))
        validation = _all(workers, running.train_run, runs, setting, "trained")
        rates = {arm.name: chosen_rate(validation, arm.name) for arm in METHODS}
        rates |= {arm.name: rates[SYMMPO.name] for arm in ABLATIONS}
        validation |= _all(workers, running.train_run, _more(size, rates), setting, "trained")
        chosen = sorted(job for job in validation if job.rate == rates[job.arm])
        test = _all(workers, running.test_run, chosen, setting, "tested")
        return Outcome(base.result(), base_test.result(), validation, test, rates)


def _more(size: Size, rates: dict[str, float]) -> list[Job]:
    seeds = range(size.seeds, size.seeds + size.more_seeds)
    return grid([SYMMPO, *ABLATIONS], [rates[SYMMPO.name]], seeds)


def pool(jobs: int) -> ProcessPoolExecutor:
    """Worker processes of one thread each: the fastest for models this small."""
    return ProcessPoolExecutor(
        jobs, mp_context=multiprocessing.get_context("spawn"), initializer=_one_thread
    )


def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)


def _all(
    workers: ProcessPoolExecutor, work: Any, jobs: Sequence[Job], setting: Any, done: str
) -> Results:
    """What `work` gives for every job; the first failure ends the rest."""
    began, found = time.monotonic(), {}
    futures: dict[Future[Scores], Job] = {workers.submit(work, job, setting): job for job in jobs}
    try:
        for future in as_completed(futures):
            job = futures[future]
            found[job] = future.result()
            left = (time.monotonic() - began) / len(found) * (len(jobs) - len(found))
            print(f"{done} {job.name}: {len(found)} of {len(jobs)}, {left / 60:.0f} min left",
                  file=sys.stderr, flush=True)  # fmt: skip
    finally:
        for future in futures:
            future.cancel()
    return found
