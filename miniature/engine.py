"""Dynamic batching: the requests that wait are answered together, on a thread of the engine's own."""

from __future__ import annotations

import threading
from collections import deque
from concurrent.futures import Future
from dataclasses import dataclass, field

import torch

from miniature.decoder import Decoder, Row, Sampled
from miniature.pictures import Picture
from miniature.refusal import ProtocolError
from miniature.sampling import Draw

ROWS = 128  # answers that are made together at most; a request's n fits in


@dataclass(frozen=True, slots=True)
class Request:
    """n answers to one prompt. `limit` is the most tokens of each, `seed` any integer."""

    ids: tuple[int, ...]
    picture: Picture | None
    n: int
    seed: int
    temperature: float
    top_p: float
    limit: int

    @property
    def bucket(self) -> int:
        """Requests of one bucket have limits of one power of two and may share a batch: who waits
        for a batch waits for its longest answer, so very long ones have batches of their own."""
        return (self.limit - 1).bit_length()

    @property
    def rows(self) -> list[Row]:
        return [
            Row(
                self.ids,
                self.picture,
                Draw(self.seed, index, self.temperature, self.top_p, self.limit),
            )
            for index in range(self.n)
        ]


@dataclass(slots=True)
class _Waiting:
    request: Request
    future: Future[list[Sampled]] = field(default_factory=Future)
    made: dict[int, Sampled] = field(default_factory=dict)


class Engine:
    """Serves one decoder. `batches` holds how many rows each batch had."""

    def __init__(self, decoder: Decoder, rows: int = ROWS) -> None:
        self.decoder = decoder
        self.batches: list[int] = []
        self._rows = rows
        self._waiting: deque[_Waiting] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    def submit(self, *requests: Request) -> list[Future[list[Sampled]]]:
        """Queues requests together; each future gives `n` answers.

        A future may raise ProtocolError. Raises ValueError for more rows than a batch holds, and
        RuntimeError after `close`.
        """
        for request in requests:
            if request.n > self._rows:
                raise ValueError(f"n is {request.n}; expected at most {self._rows}")
        entries = [_Waiting(request) for request in requests]
        with self._changed:
            if self._closed:
                raise RuntimeError("the engine is closed: it takes no more requests")
            self._waiting.extend(entries)
            self._changed.notify()
        return [entry.future for entry in entries]

    def close(self) -> None:
        """Ends the thread after the batch it is at; what waits is cancelled."""
        with self._changed:
            self._closed = True
            while self._waiting:
                self._waiting.popleft().future.cancel()
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        torch.set_num_threads(1)  # the fastest for models this small, and one engine a core
        while batch := self._next():
            try:
                self._answer(batch)
            except Exception as error:  # noqa: BLE001 - each caller is told; the engine goes on
                for entry in batch:
                    if not entry.future.done():
                        entry.future.set_exception(error)

    def _next(self) -> list[_Waiting]:
        """Waits for requests: the one that waits longest and those of its bucket. Empty at the end."""
        with self._changed:
            while True:
                self._changed.wait_for(lambda: self._waiting or self._closed)
                if self._closed:
                    return []
                batch = self._take()
                if batch:
                    return batch

    def _take(self) -> list[_Waiting]:
        batch: list[_Waiting] = []
        left: deque[_Waiting] = deque()
        room = self._rows
        bucket = self._waiting[0].request.bucket
        for entry in self._waiting:
            if entry.request.bucket != bucket or entry.request.n > room:
                left.append(entry)
            elif entry.future.set_running_or_notify_cancel():  # else its caller is gone
                batch.append(entry)
                room -= entry.request.n
        self._waiting = left
        return batch

    def _answer(self, batch: list[_Waiting]) -> None:
        pictures = [entry.request.picture for entry in batch if entry.request.picture is not None]
        faults = self.decoder.see(pictures)
        ready = []
        for entry in batch:
            picture = entry.request.picture
            if picture is not None and picture.sha256 in faults:
                entry.future.set_exception(ProtocolError(400, faults[picture.sha256]))
            else:
                ready.append(entry)
        rows = [(entry, row) for entry in ready for row in entry.request.rows]
        if not rows:
            return
        self.batches.append(len(rows))

        def tell(index: int, sampled: Sampled) -> None:
            entry, row = rows[index]
            entry.made[row.draw.index] = sampled
            if len(entry.made) == entry.request.n:
                entry.future.set_result([entry.made[i] for i in range(entry.request.n)])

        self.decoder.answer([row for _, row in rows], tell)
