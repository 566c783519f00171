"""The training loop, top to bottom.

A step is `batch.rows` rows of the epoch's permutation, over all processes. Each process takes its
forwards of it one after another; gradients are summed and reduced with the last. The loss is the
mean over the step's rows, however they are split: one process and eight give the same gradients.
"""

from __future__ import annotations

import contextlib
import json
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from config.errors import TrainingError
from storage.root import Root
from train import estimate
from train.batches import rows_of_step, split_step, steps_per_epoch
from train.checkpoint import told
from train.export import export
from train.guards import Watch, check_start
from train.recipe import Recipe
from train.reference import still
from train.scoring import Scorer, check_layouts
from train.setup import Run, check_same_run, make_accelerator, open_run
from train.tracking import Metrics, MetricsFile, Sums, Terminal, say


class Stopped(TrainingError):
    """Asked to stop by a signal; the checkpoint it names was written."""


def train(recipe: Recipe, root: Root, out: Path) -> dict[str, Any]:
    """Trains to the end, from the newest checkpoint under `out` if there is one.

    Gives what OUT/result.json then says. Raises RecipeError, StorageError, TrainingError, and
    Stopped after SIGINT or SIGTERM.
    """
    accelerator = make_accelerator(recipe, out)
    tell = say if accelerator.is_main_process else _silent
    run = open_run(recipe, root, out, accelerator, tell)
    watch = Watch.of(recipe)
    start = resume(run, watch, tell)
    if start == 0:
        check_first_batch(run, tell)
    accelerator.init_trackers("vispref", {"recipe": recipe.name, "digest": recipe.digest})
    file = MetricsFile(out / "metrics.jsonl", start) if accelerator.is_main_process else None
    terminal = Terminal(start, run.steps)
    run.scorer.train()
    with stop_signals() as asked, faults_of_the_disk(run):
        for step in range(start, run.steps):
            metrics = one_step(run, step)
            stop_if_lost(run, watch, step + 1, metrics)
            run.optimizer.step()
            run.optimizer.zero_grad()
            accelerator.log(metrics, step=step + 1)
            if file is not None:
                file.add(step + 1, metrics)
                terminal.step(step + 1, metrics)
            stop = run.processes.any(asked.is_set())
            last = step + 1 == run.steps
            if stop or last or (step + 1) % recipe.checkpoints.every == 0:
                save(run, watch, step + 1)
            if stop and not last:
                raise Stopped(f"stopped at step {step + 1}. {told(run.checkpoints.last())}")
    result = finish(run, out)
    accelerator.end_training()  # ends the processes' group too
    return result


def one_step(run: Run, step: int) -> Metrics:
    """Forward and backward over the step's rows, gradients clipped. The step's metrics, over all."""
    began = time.perf_counter()
    recipe, objective = run.recipe, run.recipe.objective.loss
    parameters = objective.parameters(recipe.objective.parameters)
    numbers = rows_of_step(len(run.rows.rows), recipe.batch.rows, recipe.seed, step)
    plan = split_step(numbers, run.rows.tokens, recipe.batch.tokens, run.processes.count)
    own = plan[run.processes.index]
    sums = Sums(objective, parameters.get("beta", 1.0))
    for micro, batch in zip(own, run.rows.ahead([micro.rows for micro in own]), strict=True):
        weight = 0.0 if micro.filler else 1.0
        reference = run.reference(batch)
        with last_reduces(run, micro is own[-1]):
            with run.accelerator.autocast():
                policy = run.scorer(batch)
            terms = objective.terms(policy, reference, **parameters)
            # reduced gradients are the processes' mean, so each counts as many times as there are
            loss = weight * terms["loss"].sum() * run.processes.count / len(numbers)
            run.accelerator.backward(loss)
        sums.add(terms, policy, reference, weight)
    rate = learning_rate(recipe, step, run.steps)
    for group in run.optimizer.param_groups:
        group["lr"] = rate
    norm = clip(run)
    summed = run.processes.sum(sums.values())
    metrics = {name: value / len(numbers) for name, value in summed.items()}
    metrics |= {"grad_norm": norm, "learning_rate": rate}
    metrics["epoch"] = (step + 1) / steps_per_epoch(len(run.rows.rows), recipe.batch.rows)
    return metrics | speed(run, numbers, time.perf_counter() - began)


@contextlib.contextmanager
def last_reduces(run: Run, last: bool) -> Iterator[None]:
    """Gradients wait on their process until the step's last backward."""
    run.accelerator.sync_gradients = last
    with contextlib.nullcontext() if last else run.accelerator.no_sync(run.scorer):
        yield


def clip(run: Run) -> float:
    """The gradient's norm before clipping."""
    parameters = [value for value in run.scorer.parameters() if value.requires_grad]
    norm = run.accelerator.clip_grad_norm_(parameters, run.recipe.optimiser.max_grad_norm)
    if hasattr(norm, "full_tensor"):  # sharded
        norm = norm.full_tensor()
    return float(norm) if norm is not None else 0.0


def learning_rate(recipe: Recipe, step: int, steps: int) -> float:
    """Of step `step`, counted from 0: linear warm-up to the peak, then the schedule."""
    peak, warmup = recipe.optimiser.learning_rate, math.ceil(recipe.optimiser.warmup * steps)
    if step < warmup:
        return peak * (step + 1) / warmup
    if recipe.optimiser.schedule == "constant":
        return peak
    return peak * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def speed(run: Run, numbers: list[int], seconds: float) -> Metrics:
    """Rates over all processes; tokens are useful ones, without padding."""
    tokens = sum(run.rows.tokens[number] for number in numbers)
    metrics = {
        "speed/rows_per_s": len(numbers) / seconds,
        "speed/tokens_per_s": tokens / seconds,
        "speed/seconds": seconds,
    }
    if torch.cuda.is_available():
        metrics["memory/peak_gib"] = torch.cuda.max_memory_allocated() / 2**30
        peak = estimate.peak_flops(torch.cuda.get_device_name())
        if peak is not None:
            work = run.shape.flops(tokens) / run.processes.count
            metrics["speed/mfu"] = work / (peak * seconds)
    return metrics


def check_first_batch(run: Run, tell: Callable[[str], None]) -> None:
    """The layout against the naive one, and the reference against the policy, on some rows."""
    recipe = run.recipe
    numbers = rows_of_step(len(run.rows.rows), recipe.batch.rows, recipe.seed, 0)
    batch = [run.rows[number] for number in sorted(numbers)[: recipe.guards.rows]]
    if recipe.batch.layout != "naive":
        naive = Scorer(run.policy.model, "naive", recipe.batch.head_chunk)
        with run.accelerator.autocast():
            apart = check_layouts(run.policy, naive, batch, recipe.layout_tolerance)
        tell(f"layouts agree to {apart:.1e} nats")
    reference = run.reference(batch)
    if reference is None or recipe.reference.path is not None:
        return
    with still(run.policy), run.accelerator.autocast():
        policy = run.policy(batch)
    apart = check_start(batch, policy, reference, recipe.reference_tolerance, recipe.reference.kind)
    tell(f"policy and reference agree to {apart:.1e} nats at step 0")


def stop_if_lost(run: Run, watch: Watch, step: int, metrics: Metrics) -> None:
    reason = watch.look(step, metrics["loss"], metrics["grad_norm"])
    if reason is not None:
        raise TrainingError(
            f"{reason}. {told(run.checkpoints.last())} Lower optimiser.learning_rate, or look at "
            "the rows of this step."
        )


def resume(run: Run, watch: Watch, tell: Callable[[str], None]) -> int:
    """Steps already done by the newest checkpoint, whose state is put back; 0 without one."""
    path = run.checkpoints.last()
    if path is None:
        return 0
    check_same_run(run, json.loads((path / "run.json").read_text(encoding="utf-8")), path)
    about = run.checkpoints.load(path)
    watch.first, watch.high = list(about["watch"]["first"]), about["watch"]["high"]
    tell(f"going on from {path}")
    return int(about["step"])


def save(run: Run, watch: Watch, step: int) -> None:
    run.checkpoints.save(step, {**run.about, "watch": {"first": watch.first, "high": watch.high}})


def finish(run: Run, out: Path) -> dict[str, Any]:
    """Exports the model and writes result.json, on the main process."""
    checkpoint = run.checkpoints.last()
    result = {"steps": run.steps, "checkpoint": str(checkpoint), **run.about}
    if run.processes.is_main and checkpoint is not None:
        if run.recipe.checkpoints.export:
            result["model"] = str(export(checkpoint, out / "model"))
        text = json.dumps(result, indent=1, sort_keys=True)
        (out / "result.json").write_text(text + "\n", encoding="utf-8")
    run.processes.wait()
    return result


@contextlib.contextmanager
def faults_of_the_disk(run: Run) -> Iterator[None]:
    """A checkpoint says so itself; metrics, logs and images say so here."""
    try:
        yield
    except OSError as error:
        raise TrainingError(f"training stopped: {error}. {told(run.checkpoints.last())}") from error


@contextlib.contextmanager
def stop_signals() -> Iterator[threading.Event]:
    """The first SIGINT or SIGTERM asks for a checkpoint after this step, a second one ends at once."""
    asked = threading.Event()

    def ask(number: int, frame: Any) -> None:
        asked.set()
        signal.signal(number, before[number])

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _silent(text: str) -> None:
    return
