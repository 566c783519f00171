"""Where a stage's jobs are done: in this process, or on a Ray or Dask cluster.

On a cluster each job is a Prefect task run that waits for the cluster's own future. Prefect's
task runners for Ray and Dask would run Prefect itself on every worker, which would then need its
server; so a worker needs this code and the dataset's root, and nothing else.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import logging
import os
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextvars import Context, copy_context
from typing import Any, Protocol

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.transactions import BaseTransaction

from config.errors import RecipeError
from config.settings import Runner, Settings
from stages.jobs import Compute, Job, Receipt, answered, here, receipt_of, run_job
from tasks.batches import RETRIES, RETRY_DELAY_S, Deliberate
from tasks.gpus import NO_GPU, visible_gpus

LOOPBACK = "127.0.0.1"


class Cluster(Protocol):
    """Worker processes, somewhere."""

    def slots(self) -> int:
        """How many jobs it does at once, as far as it is known now."""
        ...

    def call(self, do: Callable[[Any], Any], text: str) -> str:
        """`stages.jobs.answered` on a worker. Raises the cluster's own error if that is lost."""
        ...

    def drop(self) -> None:
        """Gives up the calls under way: each raises an error where it is waited for."""
        ...


@contextlib.asynccontextmanager
async def computing(settings: Settings) -> AsyncIterator[Compute]:
    """What a stage is given as `compute`. The cluster is reached at the first job, not before.

    Raises RecipeError, at that job, where the runner's extra is missing.
    """
    if settings.runner.kind == "local":
        yield here
        return
    stack = contextlib.ExitStack()
    opened: list[Cluster] = []

    def compute(stage: str, jobs: Iterable[Job]) -> Iterator[Receipt]:
        left = iter(jobs)
        first = next(left, None)
        if first is None:
            return
        if not opened:
            opened.append(stack.enter_context(cluster_of(settings)))
        yield from as_tasks(stage, opened[0], itertools.chain([first], left))

    try:
        yield compute
    finally:
        await asyncio.to_thread(stack.close)


def as_tasks(
    stage: str,
    cluster: Cluster,
    jobs: Iterable[Job],
    function: Callable[[Job], Receipt] = run_job,
) -> Iterator[Receipt]:
    """The receipts as they come. No more jobs are begun than keep the cluster busy.

    Where the reader stops, jobs under way are dropped: they are done again when they are needed.
    """
    deliberate = Deliberate()

    @task(
        name=f"{stage} job",
        task_run_name=f"{stage} {{number}}",
        retries=RETRIES,
        retry_delay_seconds=RETRY_DELAY_S,
        retry_condition_fn=deliberate.condition(),
        cache_policy=NO_CACHE,
        persist_result=False,
    )
    def one_job(number: int, job: Job) -> Receipt:
        with deliberate.watching():
            return receipt_of(cluster.call(function, json.dumps(job)))

    at_once = 2 * cluster.slots()  # as many wait at the workers as are done there
    pool = ThreadPoolExecutor(at_once, thread_name_prefix="job")
    waiting: set[Future[Receipt]] = set()
    try:
        for number, job in enumerate(jobs, 1):
            waiting.add(pool.submit(_context().run, one_job, number, job))
            if len(waiting) >= at_once:
                done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                yield from [future.result() for future in done]
        while waiting:
            done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
            yield from [future.result() for future in done]
    finally:
        deliberate.stopped = True  # what is dropped is not tried again
        cluster.drop()
        pool.shutdown(wait=True, cancel_futures=True)


def _context() -> Context:
    """A thread's own context, by which Prefect knows the run that a task belongs to.

    Without the transaction of the stage's task: that is an asynchronous one, which a thread's task
    that fails could not roll back. Nothing is cached, so there is nothing to roll back.
    """
    context = copy_context()
    context.run(BaseTransaction.__var__.set, None)
    return context


def cluster_of(settings: Settings) -> contextlib.AbstractContextManager[Cluster]:
    gpus = settings.embedding.device != "cpu"
    return (ray_cluster if settings.runner.kind == "ray" else dask_cluster)(settings.runner, gpus)


class RayCluster:
    """Ray's tasks: one core each, and one GPU where the cluster has any and it may be used."""

    def __init__(self, ray: Any, gpus: bool) -> None:
        self._ray = ray
        self._gpus = gpus and ray.cluster_resources().get("GPU", 0) >= 1
        # Prefect tries again, where it can be seen.
        self._answered = ray.remote(max_retries=0, num_cpus=1, num_gpus=int(self._gpus))(answered)
        self._under_way: set[Any] = set()

    def slots(self) -> int:
        return max(1, int(self._ray.cluster_resources().get("GPU" if self._gpus else "CPU", 1)))

    def call(self, do: Callable[[Any], Any], text: str) -> str:
        asked = self._answered.remote(do, text)
        self._under_way.add(asked)
        try:
            answer: str = self._ray.get(asked)
        finally:
            self._under_way.discard(asked)
        return answer

    def drop(self) -> None:
        for asked in list(self._under_way):
            self._ray.cancel(asked, force=True)


@contextlib.contextmanager
def ray_cluster(runner: Runner, gpus: bool) -> Iterator[Cluster]:
    """The cluster at the address; without one, one of this machine's cores on loopback."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if runner.address is None:
        # Ray's word for a cluster of one machine: its servers listen on loopback alone. It is
        # read when Ray is imported.
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    try:
        import ray
    except ImportError as error:
        raise _missing("ray") from error
    own = {} if runner.address else {"include_dashboard": False}
    try:
        ray.init(
            address=runner.address or "local", log_to_driver=False, logging_level="ERROR", **own
        )
    except OSError as error:
        raise _unreachable(runner, error) from error
    try:
        yield RayCluster(ray, gpus)
    finally:
        ray.shutdown()


class DaskCluster:
    """Dask's tasks: one a worker's thread."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self._under_way: set[Any] = set()

    def slots(self) -> int:
        return max(1, sum(self._client.nthreads().values()))

    def call(self, do: Callable[[Any], Any], text: str) -> str:
        asked = self._client.submit(answered, do, text, pure=False)
        self._under_way.add(asked)
        try:
            answer: str = asked.result()
        finally:
            self._under_way.discard(asked)
        return answer

    def drop(self) -> None:
        # One that a worker has begun is finished there; nobody takes its answer.
        self._client.cancel(list(self._under_way))


@contextlib.contextmanager
def dask_cluster(runner: Runner, gpus: bool) -> Iterator[Cluster]:
    """The cluster at the address; without one, a process for each of this machine's GPUs or cores."""
    try:
        from distributed import Client
    except ImportError as error:
        raise _missing("dask") from error
    with contextlib.ExitStack() as stack:
        address: Any = runner.address
        if address is None:
            address = stack.enter_context(_local_dask(visible_gpus() if gpus else (NO_GPU,)))
        try:
            client = Client(address, set_as_default=False)
        except OSError as error:
            raise _unreachable(runner, error) from error
        yield DaskCluster(stack.enter_context(contextlib.closing(client)))


def _local_dask(gpus: tuple[str, ...]) -> Any:
    """Dask knows nothing of GPUs: each has one worker, which sees no other."""
    from distributed import LocalCluster, Nanny, Scheduler, SpecCluster

    dashboard = f"{LOOPBACK}:0"
    if gpus == (NO_GPU,):
        return LocalCluster(
            n_workers=os.cpu_count(),
            threads_per_worker=1,
            host=LOOPBACK,
            dashboard_address=dashboard,
        )
    place = {"host": LOOPBACK, "dashboard_address": dashboard}
    # Without a limit of memory: Dask would take one core's share for that of a GPU.
    worker = {**place, "nthreads": 1, "memory_limit": 0}
    return SpecCluster(
        scheduler={"cls": Scheduler, "options": place},
        workers={
            gpu: {"cls": Nanny, "options": {**worker, "env": {"CUDA_VISIBLE_DEVICES": gpu}}}
            for gpu in gpus
        },
        silence_logs=logging.WARNING,
    )


def _unreachable(runner: Runner, error: OSError) -> RecipeError:
    return RecipeError(
        f"no {runner.kind} cluster at {runner.address or 'this machine'}: {error}. Start one or mend "
        "VISPREF_RUNNER__ADDRESS; a Ray cluster with tokens needs RAY_AUTH_MODE=token here as well."
    )


def _missing(extra: str) -> RecipeError:
    return RecipeError(
        f"runner.kind is {extra}, which needs the extra `{extra}`: pip install 'vispref[{extra}]'"
    )
