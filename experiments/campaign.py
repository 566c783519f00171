"""Runs what is pending, some at a time, and goes on where a killed experiment was."""

from __future__ import annotations

import multiprocessing
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments import data
from experiments.plan import ABLATIONS, METHODS, RATES, SYMMPO, Job, chosen_rate, grid

Scores = dict[str, Any]
Results = dict[Job, Scores]
Work = Callable[[Job, Any], Scores]


@dataclass(frozen=True)
class Size:
    """How much is run. grid_seeds: of every method at every rate, by which the rate is chosen; seeds:
    of all arms at their rates. highest: SymMPO and its ablations at the highest rate too. validation
    and test count scenes."""

    scenes: int = 360
    grid_seeds: int = 2
    seeds: int = 3
    rates: tuple[float, ...] = RATES
    highest: bool = True
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
        runs = grid(METHODS, size.rates, range(min(size.grid_seeds, size.seeds)))
        validation = run_all(workers, running.train_run, runs, setting)
        rates = {arm.name: chosen_rate(validation, arm.name) for arm in METHODS}
        rates |= {arm.name: rates[SYMMPO.name] for arm in ABLATIONS}
        runs = [Job(arm, rate, seed) for seed in range(size.seeds) for arm, rate in rates.items()]
        at_rates = run_all(workers, running.train_run, runs, setting)
        test = run_all(workers, running.test_run, runs, setting)
        runs = highest_jobs(size) if size.highest else []
        validation |= at_rates | run_all(workers, running.train_run, runs, setting)
        return Outcome(base.result(), base_test.result(), validation, test, rates)


def highest_jobs(size: Size) -> list[Job]:
    """SymMPO and its ablations where training is roughest, and what a term guards against shows."""
    return grid([SYMMPO, *ABLATIONS], [max(size.rates)], range(size.seeds))


def pool(jobs: int) -> ProcessPoolExecutor:
    """Worker processes of one thread each: the fastest for models this small."""
    return ProcessPoolExecutor(
        jobs, mp_context=multiprocessing.get_context("spawn"), initializer=_one_thread
    )


def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)


def run_all(workers: Executor, work: Work, jobs: Sequence[Job], setting: Any) -> Results:
    """What `work(job, setting)` gives for every job; the first failure ends the rest and is raised."""
    began, found = time.monotonic(), {}
    futures: dict[Future[Scores], Job] = {workers.submit(work, job, setting): job for job in jobs}
    try:
        for future in as_completed(futures):
            job = futures[future]
            found[job] = future.result()
            left = (time.monotonic() - began) / len(found) * (len(jobs) - len(found))
            told = f"{job.name}: {len(found)} of {len(jobs)}, {left / 60:.0f} min left"
            print(told, file=sys.stderr, flush=True)
    finally:
        for future in futures:
            future.cancel()
    return found
