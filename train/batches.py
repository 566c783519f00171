"""Which rows train together: one seeded permutation an epoch, shared by all processes.

Pure: every process works out the same plan, and takes its own part of it.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from config.digest import seed_of


@dataclass(frozen=True)
class Micro:
    """Rows of one forward on one process. A `filler` keeps processes in step and counts for nothing."""

    rows: tuple[int, ...]
    filler: bool = False


Step = list[list[Micro]]  # [process][forward], equally many forwards for every process


def permutation(rows: int, seed: int, epoch: int) -> list[int]:
    """Row numbers in the epoch's order."""
    order = list(range(rows))
    random.Random(seed_of(seed, "epoch", epoch)).shuffle(order)  # noqa: S311 - an order, no secret
    return order


def steps_per_epoch(rows: int, batch: int) -> int:
    """The last step of an epoch may have fewer rows: none is left out, none comes twice."""
    return -(-rows // batch)


def rows_of_step(rows: int, batch: int, seed: int, step: int) -> list[int]:
    """Row numbers of optimiser step `step`, counted from 0 over all epochs."""
    epoch, place = divmod(step, steps_per_epoch(rows, batch))
    return permutation(rows, seed, epoch)[place * batch : (place + 1) * batch]


def split_step(rows: Sequence[int], tokens: Sequence[int], budget: int, processes: int) -> Step:
    """The rows of one step as forwards of at most `budget` tokens with padding, by process.

    tokens: of every row, by number. Rows of like length go together; forwards of like length run at
    the same time on all processes. A row above the budget goes alone.
    """
    bins: list[list[int]] = []
    for row in sorted(rows, key=lambda row: (-tokens[row], row)):
        if bins and (len(bins[-1]) + 1) * tokens[bins[-1][0]] <= budget:
            bins[-1].append(row)
        else:
            bins.append([row])
    while len(bins) % processes:  # an idle process could as well take half of another's rows
        largest = max(bins, key=len)
        if len(largest) == 1:
            break
        half = len(largest) // 2
        bins[bins.index(largest)] = largest[:half]
        bins.append(largest[half:])
    bins.sort(key=lambda found: (-len(found) * tokens[found[0]], found))
    micros = [Micro(tuple(found)) for found in bins]
    filler = Micro(micros[-1].rows[-1:], filler=True)
    micros += [filler] * (-len(micros) % processes)
    return [micros[process::processes] for process in range(processes)]
