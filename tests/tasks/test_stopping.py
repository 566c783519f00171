import asyncio
import os
import signal

import pytest

from config.errors import StageStopped
from stages.base import Work
from tasks.stopping import stopped_by_signal


class EndsAsEver(Exception):
    """What the handler that was there before raises."""


@pytest.fixture
def before():
    def handler(*_):
        raise EndsAsEver

    old = signal.signal(signal.SIGTERM, handler)
    yield handler
    signal.signal(signal.SIGTERM, old)


def make_work():
    return Work(root=None, chain=None, settings=None, run_id="r")


def test_the_work_is_told_and_the_run_ends_as_it_always_does(before):
    work, told = make_work(), []
    work.listeners.append(told.append)

    async def run():
        with stopped_by_signal(work):
            os.kill(os.getpid(), signal.SIGTERM)
            while work.stopped is None:
                await asyncio.sleep(0.01)
            finished.append("an answer on the wire")
            work.check_going()

    finished = []
    with pytest.raises(EndsAsEver):
        asyncio.run(run())
    assert finished == ["an answer on the wire"]
    assert isinstance(told[0], StageStopped)


def test_without_a_signal_all_is_as_before(before):
    async def run():
        with stopped_by_signal(make_work()):
            pass

    asyncio.run(run())
    assert signal.getsignal(signal.SIGTERM) is before


async def test_another_thread_is_left_alone():
    def run():
        async def inner():
            with stopped_by_signal(make_work()):
                return "went on"

        return asyncio.run(inner())

    assert await asyncio.to_thread(run) == "went on"
