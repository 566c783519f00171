"""A stage that computes, as jobs of JSON values that any process with this code can do.

A job names the root, a work file with its rows, the models and limits it needs, and a range. No
row travels in it, and no key: endpoints are not among its values.

What holds when a driver loses the root: a worker writes nothing but work files of the driver's
run. Only the driver moves them into tables (`Root.rename`), and only while it holds the root's
lock or lease. So what a worker still does for a run that has ended is a file in `work/`, which no
table knows and the next run removes. A job done twice writes the same files again.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from config import errors
from config.errors import VisprefError
from stages import embed_job, scan_job

Job = dict[str, Any]
Receipt = dict[str, Any]
Compute = Callable[[str, Iterable[Job]], Iterator[Receipt]]
"""Given a stage and its jobs: their receipts as they come, in any order. Jobs are taken as needed."""

DOES: dict[str, Callable[[Job], Receipt]] = {
    "embed": embed_job.embed_batch,
    "nearest": scan_job.nearest_shard,
    "pairs": scan_job.pairs_shard,
}


def run_job(job: Job) -> Receipt:
    return DOES[job["do"]](job)


def here(stage: str, jobs: Iterable[Job]) -> Iterator[Receipt]:
    """Does the jobs in this process, one after another."""
    try:
        for job in jobs:
            yield run_job(job)
    finally:
        embed_job.forget()
        scan_job.forget()


def answered(do: Callable[[Any], Any], text: str) -> str:
    """What a worker process calls: JSON in, JSON out, an error raised on purpose as its words.

    So a driver unpickles nothing but text of a job's own making.
    """
    try:
        return json.dumps({"receipt": do(json.loads(text))})
    except VisprefError as error:
        return json.dumps({"error": type(error).__name__, "message": str(error)})


def receipt_of(text: str) -> Any:
    """The receipt in a worker's answer. Raises the error that it names."""
    answer = json.loads(text)
    if "error" in answer:
        raise getattr(errors, answer["error"])(answer["message"])
    return answer["receipt"]
