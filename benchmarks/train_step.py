"""A training step by either layout, with and without a cached reference, and by TRL.

    python -m benchmarks.train_step                                     # a medium LLaVA, on a CPU
    python -m benchmarks.train_step --trl /path/to/its/bin/python       # and TRL's DPOTrainer
    python -m benchmarks.train_step --size 7b --device cuda --rows 8 --warm 5 --timed 20 \
        --largest --peak-tflops 989 --trl /path/to/its/bin/python

Random weights, LoRA on the language model, rows encoded before. A step is the policy's and, unless
it is cached, the reference's log-probabilities, the loss, the gradients and AdamW. Every arm runs in
a process of its own. `benchmarks/train_arm.py` tells the arms; an arm of TRL needs an environment
with it (benchmarks/README.md has the lines).

x naive: how much faster than the naive arm, by CPU seconds on a CPU, so that other work on the
machine counts little, by the clock on a GPU. CPU s: of all cores, a step. tokens/s: useful ones,
those of a row with every prefix once and no padding, the same for all arms. MB: the process's peak,
and what it held before its first step; on a GPU, what its tensors held. difference: the largest of
a response's log-probability from the naive arm's, in nats. MFU: over useful tokens, see `flops`.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from benchmarks.train_arm import encode
from benchmarks.train_setup import SIZES, Size, Task, make_rows
from train.encode import EncodedRow, Group
from train.objectives import get

OURS = ("naive", "one batch", "shared", "shared, cached reference")
HEADER = (
    "objective", "tokens", "arm", "samples/s", "x naive", "tokens/s", "CPU s", "peak MB",
    "before", "difference",
)  # fmt: skip


@dataclass(frozen=True)
class Cell:
    """What an arm measured at one length, and the work that was in it."""

    task: Task
    found: dict[str, Any]
    batch: list[EncodedRow]

    @property
    def speed(self) -> float:
        return len(self.batch) / self.found["seconds"]

    @property
    def cost(self) -> float:
        """Seconds of a step by which arms compare: of the cores on a CPU, which others may share."""
        return self.found["cpu_seconds" if self.task.device == "cpu" else "seconds"]

    def difference(self, naive: Cell) -> float:
        other = naive.found["log_probs"]
        return max(
            abs(a - b)
            for which, values in self.found["log_probs"].items()
            for a, b in zip(values, other[which], strict=True)
        )

    def line(self, naive: Cell, peak_tflops: float | None) -> str:
        tokens = sum(row.tokens for row in self.batch)
        seconds = self.found["seconds"]
        values = [
            self.task.objective,
            str(self.found["length"]),
            self.task.arm,
            f"{self.speed:.3f}",
            f"{naive.cost / self.cost:.2f}",
            f"{tokens / seconds:,.0f}",
            f"{self.found['cpu_seconds']:.1f}",
            f"{self.found['peak_mb']:,.0f}",
            f"{self.found['rest_mb']:,.0f}",
            f"{self.difference(naive):.1e}",
        ]
        if peak_tflops:
            done = flops(SIZES[self.task.size], self.batch, "cached" in self.task.arm)
            values.append(f"{done / seconds / peak_tflops / 1e10:.0f} %")
        if "largest" in self.found:
            values.append(str(self.found["largest"]))
        return f"| {' | '.join(values)} |"


def flops(size: Size, batch: list[EncodedRow], cached: bool) -> float:
    """Of the language model for the useful tokens of a step, each prefix once.

    Forward and, since weights are frozen, gradients of activations alone; the reference's forward
    where it is not cached; nothing that checkpointing does again. LoRA's own and the vision tower's
    are left out, so that MFU is a little too low.
    """
    hidden, layers = size.text["hidden_size"], size.text["num_hidden_layers"]
    matrices = layers * (4 * hidden**2 + 3 * hidden * size.text["intermediate_size"])
    head = hidden * size.text["vocab_size"]
    linear = 2 * sum(matrices * row.tokens + head * row.response_tokens for row in batch)
    pairs = sum(_pairs(group) for row in batch for group in row.groups)
    attention = 4 * hidden * layers * pairs  # queries by keys, and by values
    reference = 0 if cached else 1
    return (2 + reference) * linear + (3 + reference) * attention


def _pairs(group: Group) -> float:
    prefix = len(group.prefix_ids)
    lengths = [len(ids) for ids in group.responses.values()]
    return prefix**2 / 2 + sum(prefix * length + length**2 / 2 for length in lengths)


def arms_of(objective: str, trl: str | None) -> list[str]:
    """One batch is the naive arm again where all prompts have an image, or none has."""
    slots = {which.image for which in get(objective).combinations}
    mixed = "none" in slots and len(slots) > 1
    found = [arm for arm in OURS if arm != "one batch" or mixed]
    return [*found, "TRL"] if trl and objective == "dpo" else found


def measured(task: Task, trl: str | None) -> Iterator[Cell]:
    """Runs one arm in a process of its own; exits with its error when it fails."""
    python, module = (trl, "train_trl") if task.arm == "TRL" else (sys.executable, "train_arm")
    environment = {
        **os.environ,
        "PYTHONPATH": os.getcwd(),
        "OMP_NUM_THREADS": str(task.threads),
        "OMP_WAIT_POLICY": "PASSIVE",  # threads that wait do not take a core from the others
        "HF_HUB_OFFLINE": "1",
    }
    done = subprocess.run(
        [str(python), "-m", f"benchmarks.{module}", json.dumps(asdict(task))],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode != 0:
        raise SystemExit(f"{task.arm}, {task.objective}: {done.stderr[-2000:]}")
    objective = get(task.objective)
    for line in done.stdout.splitlines():
        if not line.startswith('{"length"'):
            continue
        found = json.loads(line)
        made = make_rows(SIZES[task.size], task.rows, found["length"])
        batch = [encode(row, str(number), objective) for number, row in enumerate(made)]
        yield Cell(task, found, batch)


def options_of(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", choices=SIZES, default="medium")
    parser.add_argument("--objectives", nargs="+", default=["dpo", "symmpo", "jompo"])
    parser.add_argument("--lengths", nargs="+", type=int, default=[50, 100, 200])
    parser.add_argument("--rows", type=int, default=1, help="rows of a batch")
    parser.add_argument("--warm", type=int, default=1, help="steps before the clock starts")
    parser.add_argument("--timed", type=int, default=3, help="steps whose median is told")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--trl", help="the Python of an environment with TRL")
    parser.add_argument("--peak-tflops", type=float, help="of the GPU in bf16, dense: tells MFU")
    parser.add_argument("--largest", action="store_true", help="seek the largest batch that fits")
    options = parser.parse_args(arguments)
    options.lengths.sort()
    if min(options.rows, options.warm, options.timed) < 1:
        parser.error("--rows, --warm and --timed must be 1 or more")
    if options.largest and options.device == "cpu":
        parser.error("--largest needs a GPU: on a CPU the system would end the process")
    return options


def main(arguments: list[str] | None = None) -> None:
    options = options_of(arguments)
    columns = [*HEADER, *(["MFU"] if options.peak_tflops else [])]
    columns += ["largest batch"] if options.largest else []
    print(f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}")
    about = {}
    for objective in options.objectives:
        naive: dict[int, Cell] = {}
        for arm in arms_of(objective, options.trl):
            task = Task(
                arm, objective, options.size, options.lengths, options.rows, options.warm,
                options.timed, options.device, options.threads, options.largest,
            )  # fmt: skip
            for cell in measured(task, options.trl):
                naive.setdefault(cell.found["length"], cell)
                print(cell.line(naive[cell.found["length"]], options.peak_tflops), flush=True)
                about |= {"device": cell.found["device"], **cell.found["versions"]}
    print("\n" + ", ".join(f"{name} {value}" for name, value in about.items()))


if __name__ == "__main__":
    main()
