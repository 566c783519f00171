import asyncio

from models.slots import Slots


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


async def waiting(slots, number):
    tasks = [asyncio.create_task(slots.acquire()) for _ in range(number)]
    await settled()
    return tasks


async def settled():
    for _ in range(5):
        await asyncio.sleep(0)


def done(tasks):
    return [task.done() for task in tasks]


async def test_shrinking_lets_calls_end_and_growing_wakes_those_that_wait():
    slots = Slots(3, Clock())
    tasks = await waiting(slots, 6)
    slots.set(1, 10.0)
    slots.release()
    slots.release()
    await settled()
    assert (slots.in_use, done(tasks)) == (1, [True] * 3 + [False] * 3)
    slots.set(3, 10.0)
    await settled()
    assert (slots.in_use, done(tasks)) == (3, [True] * 5 + [False])
    slots.release()
    await tasks[5]


async def test_first_come_first_served():
    slots = Slots(1, Clock())
    await slots.acquire()
    first, second = await waiting(slots, 2)
    slots.release()
    late = asyncio.create_task(slots.acquire())
    await settled()
    assert done([first, second, late]) == [True, False, False]
    for task in (second, late):
        task.cancel()


async def test_a_cancelled_call_leaves_its_slot_to_the_next():
    slots = Slots(1, Clock())
    await slots.acquire()
    first, second, third = await waiting(slots, 3)
    first.cancel()
    slots.release()
    second.cancel()  # it has been given the slot and has not run yet
    await settled()
    assert third.done()
    assert slots.in_use == 1


async def test_once_the_time_is_past_no_slot_is_given_until_it_is_set_anew():
    clock = Clock()
    slots = Slots(2, clock)
    slots.set(2, 10.0)
    await slots.acquire()
    clock.now = 10.0
    [task] = await waiting(slots, 1)
    slots.release()
    await settled()
    assert not task.done()
    slots.set(2, 20.0)
    await task
