"""The queue: many events are one piece of work, no object is worked on twice at a time, and failures wait longer."""

import asyncio

from trimtab_operator.controller.workqueue import Key, WorkQueue

A, B = Key("default", "a"), Key("default", "b")


async def test_asking_many_times_is_asking_once() -> None:
    queue = WorkQueue()
    for _ in range(100):
        queue.add(A)

    assert await queue.take() == A
    assert len(queue) == 0


async def test_what_is_asked_for_while_it_is_worked_on_is_worked_on_once_more_afterwards() -> None:
    queue = WorkQueue()
    queue.add(A)
    await queue.take()

    queue.add(A)
    queue.add(A)
    assert len(queue) == 0  # nobody else gets it meanwhile

    queue.done(A)
    assert await queue.take() == A
    queue.done(A)
    assert len(queue) == 0


async def test_one_object_in_work_keeps_no_other_waiting() -> None:
    queue = WorkQueue()
    queue.add(A)
    await queue.take()

    queue.add(B)

    assert await asyncio.wait_for(queue.take(), 1) == B


async def test_keys_are_taken_in_the_order_of_asking() -> None:
    queue = WorkQueue()
    queue.add(A)
    queue.add(B)

    assert [await queue.take(), await queue.take()] == [A, B]


async def test_a_worker_that_waits_gets_the_next_key() -> None:
    queue = WorkQueue()
    taking = asyncio.create_task(queue.take())
    await asyncio.sleep(0)

    queue.add(A)

    assert await asyncio.wait_for(taking, 1) == A


async def test_the_earliest_time_asked_for_counts() -> None:
    queue = WorkQueue()
    queue.add_after(A, 600)
    queue.add_after(A, 0.01)
    queue.add_after(A, 600)

    assert await asyncio.wait_for(queue.take(), 5) == A


async def test_work_that_is_taken_needs_no_timer_any_more() -> None:
    queue = WorkQueue()
    queue.add_after(A, 0.05)
    queue.add(A)
    await queue.take()
    queue.done(A)

    await asyncio.sleep(0.2)

    assert len(queue) == 0


async def test_each_failure_in_a_row_waits_twice_as_long_and_a_success_ends_the_row() -> None:
    queue = WorkQueue()

    assert [queue.add_failed(A) for _ in range(4)] == [0.5, 1.0, 2.0, 4.0]
    assert queue.add_failed(B) == 0.5
    queue.forget(A)
    assert queue.add_failed(A) == 0.5


async def test_no_object_waits_longer_than_two_minutes() -> None:
    queue = WorkQueue()

    assert max(queue.add_failed(A) for _ in range(30)) == 120.0
