"""What every stage is given, and what a stage that calls a model consists of."""

from __future__ import annotations

import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

from config.digest import text_digest
from config.errors import StageStopped
from config.recipe import Recipe, Structured
from config.settings import Role, Settings
from models.chat import ChatAnswer, ChatClient, ChatRequest, Message
from prompts import Prompt, data_block
from stages.chain import Chain
from storage.images import ImageStore
from storage.root import Root
from storage.tables import Tables

Row = dict[str, Any]
AnswerSchema = tuple[str, Mapping[str, Any]]  # its name and the JSON schema


@dataclass
class Work:
    """One run on one root: the recipe and its digests, the settings, the run's name."""

    root: Root
    chain: Chain
    settings: Settings
    run_id: str
    ingest: str | None = None
    progress: Progress = field(default_factory=lambda: Progress())
    stopped: StageStopped | None = field(default=None, init=False)
    # What has to be told when the run is stopped: the clients, while they are open.
    listeners: list[Callable[[StageStopped], object]] = field(default_factory=list, init=False)

    @property
    def recipe(self) -> Recipe:
        return self.chain.recipe

    def tables(self) -> Tables:
        return Tables(self.root, self.settings.duckdb_memory, self.settings.scratch_dir)

    def stop(self, why: StageStopped) -> None:
        """Lets what is under way end, and nothing new begin. Called on the run's event loop."""
        self.stopped = why
        for listener in self.listeners:
            listener(why)

    def check_going(self) -> None:
        """Raises the reason once the run was told to stop."""
        if self.stopped is not None:
            raise self.stopped


@dataclass
class StageProgress:
    """What one stage has done so far in this run. Tokens and dollars are those of its rows."""

    stage: str
    state: str = "waiting"  # waiting | running | done | stopped
    total: int = 0
    done: int = 0
    failed: int = 0
    calls: int = 0
    cached: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost_usd: float = 0.0
    started: float | None = None
    ended: float | None = None
    note: str = ""

    @property
    def seconds(self) -> float:
        if self.started is None:
            return 0.0
        return (self.ended or time.monotonic()) - self.started

    @property
    def rate(self) -> float:
        return (self.done + self.failed) / self.seconds if self.seconds > 0 else 0.0

    @property
    def seconds_left(self) -> float | None:
        left = self.total - self.done - self.failed
        return left / self.rate if self.rate > 0 else None

    def as_dict(self) -> dict[str, Any]:
        return {
            "stage": self.stage,
            "state": self.state,
            "pending": self.total,
            "done": self.done,
            "failed": self.failed,
            "calls": self.calls,
            "cached": self.cached,
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "cost_usd": round(self.cost_usd, 6),
            "seconds": round(self.seconds, 2),
            "note": self.note,
        }


class Progress:
    """Counters by stage. Stages write, displays read; safe over threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.stages: dict[str, StageProgress] = {}

    def begin(self, stage: str, total: int, note: str = "") -> StageProgress:
        with self._lock:
            found = StageProgress(
                stage, state="running", total=total, started=time.monotonic(), note=note
            )
            self.stages[stage] = found
            return found

    @contextmanager
    def running(self, stage: str, total: int) -> Iterator[None]:
        """Around a stage's work: it is done when that ends, and stopped when that says so."""
        self.begin(stage, total)
        try:
            yield
        except StageStopped as stopped:
            self.end(stage, "stopped", str(stopped))
            raise
        self.end(stage)

    def end(self, stage: str, state: str = "done", note: str = "") -> None:
        with self._lock:
            found = self.stages[stage]
            found.state, found.ended = state, time.monotonic()
            found.note = note or found.note

    def tell(self, stage: str, note: str) -> None:
        with self._lock:
            self.stages[stage].note = note

    def add(self, stage: str, **counts: float) -> None:
        with self._lock:
            found = self.stages[stage]
            for name, value in counts.items():
                setattr(found, name, getattr(found, name) + value)


@dataclass(frozen=True)
class Outcome:
    """What one unit of work gave: rows by table (the stage's own table last), and its calls."""

    rows: dict[str, list[Row]]
    answers: list[ChatAnswer]


class CallStage(Protocol):
    """A stage whose unit of work is one call to a model (or one, asked again when bad)."""

    name: str
    table: str
    role: Role

    def keys(self, work: Work, tables: Tables) -> str:
        """SQL of the stage's inputs: `key` and light columns, among them `unit` or `image`."""
        ...

    def texts(self, work: Work, tables: Tables, chunk: str) -> str:
        """SQL that joins the heavy columns to the rows of the temporary table `chunk`."""
        ...

    def processor(
        self, work: Work, client: ChatClient, images: ImageStore
    ) -> Callable[[Row, int], Awaitable[Outcome]]:
        """Makes the function that does one unit. It is given the unit and a nonce: 0, or how
        often the unit has failed before when a fresh answer is to be paid for."""
        ...


def claims_request(
    call: Structured, prompt: Prompt, data: Mapping[str, Any], nonce: int, schema: AnswerSchema
) -> ChatRequest:
    """What the claim model is asked: a prompt whose material is one block of data."""
    name, shape = schema
    return ChatRequest(
        model=call.model,
        messages=tuple(
            Message(role, (text,)) for role, text in prompt.render(data=data_block(data))
        ),
        temperature=call.temperature,
        top_p=call.top_p,
        max_tokens=call.max_tokens,
        seed=None,
        nonce=nonce,
        schema_name=name,
        schema=shape,
    )


def unit_id(image: str, prompt: str) -> str:
    """The identity of (image, prompt), the unit that is sampled, compared and rewritten."""
    return text_digest(f"{image}\n{prompt}")


UNIT_SQL = "left(sha256({image} || chr(10) || {prompt}), 32)"


def row_identity(recipe: str, key: str) -> str:
    """`id` of an output row: unique over all recipe digests."""
    return text_digest(f"{recipe}:{key}")


def call_columns(
    answers: list[ChatAnswer], model: str, prompt_digest: str | None, run_id: str
) -> Row:
    """The accounting that stands on every row a model paid for: all asks are summed."""
    last = answers[-1]
    return {
        "model": model,
        "served_model": last.served_model,
        "prompt_digest": prompt_digest,
        "request_key": last.key,
        "finish_reason": last.finish_reason,
        "prompt_tokens": sum(a.prompt_tokens for a in answers),
        "completion_tokens": sum(a.completion_tokens for a in answers),
        "cost_usd": sum(a.cost_usd for a in answers),
        "attempts": len(answers),
        "run_id": run_id,
    }
