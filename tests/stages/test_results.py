"""A batch that goes wrong: run twice, with a row nobody foresaw, with rows that cannot be stored."""

import asyncio
from contextlib import nullcontext
from types import SimpleNamespace

import pytest

from benchmarks.synthetic import make_root, open_synthetic
from config.errors import EndpointDown, InvalidAnswer, StorageError
from stages.base import Outcome
from stages.calls import BatchRunner, run_call_stage
from stages.pending import Pending
from stages.rewrite import RewriteStage
from storage.catalog import query
from storage.root import Root

ROWS = 6


class Faulty(RewriteStage):
    """The rewrite stage with an answer, or an error, for each row by its place."""

    def __init__(self, faults=()):
        self.faults = dict(faults)

    def processor(self, work, client, images):
        places = {}

        async def process(unit, nonce):
            place = places.setdefault(unit["key"], len(places))
            fault = self.faults.get(place)
            if isinstance(fault, BaseException):
                raise fault
            row = {"id": unit["key"], "key": unit["key"], "unit": unit["unit"],
                   "chosen": fault or "yes", "rejected": "no"}  # fmt: skip
            return Outcome({"rewrites": [row]}, [])

        return process


@pytest.fixture
def root(tmp_path):
    make_root(tmp_path / "root", ROWS)
    return tmp_path / "root"


def opened(root):
    return open_synthetic(root, root / "cache", "http://127.0.0.1:9/v1", 1)


def run(root, stage, wrap=lambda run: run):
    work = opened(root)
    client = SimpleNamespace(
        endpoint=SimpleNamespace(concurrency=1), calling=lambda say: nullcontext()
    )
    asyncio.run(run_call_stage(work, stage, client, None, wrap=wrap))
    return work


def keys(root, table):
    return [row["key"] for row in query(Root(root), f"SELECT key FROM {table}").to_pylist()]


def test_a_batch_that_is_tried_again_doubles_no_row(root):
    def twice(run_batch):
        async def again(batch):
            await run_batch(batch)
            return await run_batch(batch)

        return again

    run(root, Faulty({1: InvalidAnswer("bad")}), twice)
    assert len(keys(root, "rewrites")) == len(set(keys(root, "rewrites"))) == ROWS - 1
    history = query(Root(root), "SELECT key FROM history.failures").to_pylist()
    assert len(history) == 1


@pytest.mark.parametrize("fault", [ZeroDivisionError("nobody foresaw it"), "half \ud800 a pair"])
def test_an_error_nobody_foresaw_fails_its_row_alone(root, fault):
    run(root, Faulty({2: fault}))
    assert len(keys(root, "rewrites")) == ROWS - 1
    [failed] = query(Root(root), "SELECT * FROM failures").to_pylist()
    assert failed["error_class"] == "UnexpectedError"
    assert failed["key"] not in keys(root, "rewrites")
    run(root, Faulty())
    assert len(keys(root, "rewrites")) == ROWS
    assert keys(root, "failures") == []


def test_a_failure_with_half_a_character_in_its_text_is_kept(root):
    run(root, Faulty({0: InvalidAnswer("bad \udc00", raw_text="raw \ud800")}))
    [failed] = query(Root(root), "SELECT * FROM failures").to_pylist()
    assert failed["raw_text"] == "raw \\ud800"


def test_what_stops_the_stage_still_stops_it_after_the_rest_is_written(root):
    with pytest.raises(EndpointDown):
        run(root, Faulty({3: EndpointDown("dead")}))
    assert len(keys(root, "rewrites")) == ROWS - 1


def test_rows_whose_texts_are_gone_fail_and_the_others_go_on(root):
    work = opened(root)
    pending = Pending(work, Faulty())
    pending.stage.texts = lambda work, tables, chunk: (
        f"SELECT *, '' AS claims FROM {chunk} ORDER BY key LIMIT {ROWS - 2}"
    )
    work.progress.begin("rewrite", pending.count)
    [batch] = pending.chunk(0)
    runner = BatchRunner(work, Faulty(), None, None)
    assert asyncio.run(runner.run(batch))["rows"] == ROWS - 2
    pending.close()
    failed = query(Root(root), "SELECT error_class FROM failures").to_pylist()
    assert [row["error_class"] for row in failed] == ["InputMissing"] * 2


def test_a_row_twice_among_the_texts_is_an_error(root):
    work = opened(root)
    pending = Pending(work, Faulty())
    pending.stage.texts = lambda work, tables, chunk: (
        f"SELECT * FROM {chunk} UNION ALL SELECT * FROM {chunk}"
    )
    with pytest.raises(StorageError, match="holds a row twice"):
        pending.chunk(0)
    pending.close()
