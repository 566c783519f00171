"""Rows as a run uses them: measured once, encoded again when their turn comes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import pairwise

from config.digest import digest
from config.errors import RefusedRow
from train.encode import EncodedRow, Encoder
from train.processes import Processes
from train.rows import TrainingRow

KEPT_BYTES = 2**30  # of encoded rows that stay in memory; the rest is encoded anew each epoch
THREADS = 4


@dataclass
class Rows:
    """The rows that can be encoded, with their token counts.

    tokens: by row number, in the recipe's layout. refused: rows the encoder refused, by reason.
    """

    encoder: Encoder
    rows: list[TrainingRow]
    tokens: list[int] = field(default_factory=list)
    response_tokens: list[int] = field(default_factory=list)
    refused: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)
    kept: dict[int, EncodedRow] = field(default_factory=dict)

    def __getitem__(self, number: int) -> EncodedRow:
        found = self.kept.get(number)
        return self.encoder.encode(self.rows[number]) if found is None else found

    def ahead(self, batches: Sequence[Sequence[int]]) -> Iterator[list[EncodedRow]]:
        """The batches' encoded rows, each made while the batch before it is being trained on."""
        if not batches:
            return
        with ThreadPoolExecutor(THREADS) as pool:
            coming = self._start(pool, batches[0])
            for _, following in pairwise([*batches, ()]):
                current, coming = coming, self._start(pool, following)
                yield [made.result() for made in current]

    def _start(self, pool: ThreadPoolExecutor, batch: Sequence[int]) -> list[Future[EncodedRow]]:
        return [pool.submit(self.__getitem__, number) for number in batch]


@dataclass(frozen=True)
class Measured:
    """One row's measure, or why it is refused; small enough to travel between processes."""

    tokens: int = 0
    responses: int = 0
    reason: str | None = None
    message: str = ""
    encoded: EncodedRow | None = None


def measure(encoder: Encoder, row: TrainingRow, layout: str) -> Measured:
    try:
        made = encoder.encode(row)
    except RefusedRow as refused:
        return Measured(reason=refused.reason, message=str(refused))
    tokens = made.naive_tokens if layout == "naive" else made.tokens
    return Measured(tokens, made.response_tokens, encoded=made)


def survey(encoder: Encoder, rows: list[TrainingRow], layout: str, processes: Processes) -> Rows:
    """Encodes every row once, shared out over the processes, to know its length or its refusal.

    processes: the run's, see train/processes.py.
    """
    own = range(processes.index, len(rows), processes.count)
    kept: dict[str, EncodedRow] = {}
    kept_bytes = 0
    found: list[tuple[int, Measured]] = []
    with ThreadPoolExecutor(THREADS) as pool:
        made = pool.map(lambda number: measure(encoder, rows[number], layout), own)
        for number, one in zip(own, made, strict=True):
            if one.encoded is not None and kept_bytes < KEPT_BYTES:
                kept[rows[number].row_id] = one.encoded
                kept_bytes += _bytes_of(one.encoded)
            found.append((number, Measured(one.tokens, one.responses, one.reason, one.message)))
    result = Rows(encoder, [])
    for number, one in sorted(processes.gather(found), key=lambda pair: pair[0]):
        if one.reason is not None:
            result.refused[one.reason] += 1
            result.examples.setdefault(one.reason, one.message)
            continue
        if rows[number].row_id in kept:
            result.kept[len(result.rows)] = kept[rows[number].row_id]
        result.rows.append(rows[number])
        result.tokens.append(one.tokens)
        result.response_tokens.append(one.responses)
    return result


def row_digest(row: TrainingRow) -> str:
    """Of all that goes into a row's log-probabilities: images are named by their content."""
    return digest([row.prompt, dict(row.images), dict(row.responses)])


def _bytes_of(row: EncodedRow) -> int:
    return sum(
        tensor.numel() * tensor.element_size()
        for group in row.groups
        if group.pixels is not None
        for tensor in group.pixels.inputs.values()
    )
