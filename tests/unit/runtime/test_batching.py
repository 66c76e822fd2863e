"""Batching changes when rows run, never what comes out."""

import asyncio
import math
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trimtab_runtime.engine.batcher import Batcher, Limits
from trimtab_runtime.engine.costs import Costs, Forecast
from trimtab_runtime.engine.pieces import piece_rows
from trimtab_runtime.engine.queueing import Outputs, Queue, Waiting
from trimtab_runtime.engine.running import Run
from trimtab_runtime.engine.turns import Turns
from trimtab_runtime.model.session import Model, load_model
from trimtab_runtime.protocol.errors import Busy, InferenceFailed, Late
from trimtab_runtime.protocol.tensors import Array

Sizes = list[tuple[int, int]]  # rows and columns of each request


@pytest.fixture(scope="module")
def echo(models: Any) -> Model:
    return load_model(models.echo("FP32"), threads=1)


@pytest.fixture(scope="module")
def fragile(models: Any) -> Model:
    return load_model(models.fragile(), threads=1)


COSTS = Costs((1,), (1e-6,))


def batcher_of(
    run: Run, limits: Limits, runs: list[int] | None = None, in_loop: bool = False, lone: bool = False, **costs: Any
) -> Batcher:
    """Return a batcher that notes the rows of its runs."""
    noted: list[int] = [] if runs is None else runs
    found = costs.get("costs", COSTS)
    return Batcher(run, limits, found, lambda rows, _: noted.append(rows), in_loop, lone_in_loop=lone)


def waiting(rows: int, columns: int) -> Waiting:
    return Waiting({}, rows, 0, (columns,), 0.0, None, lambda _: None)


async def run_all(batcher: Batcher, many: Sequence[Mapping[str, Array]]) -> list[Any]:
    return await asyncio.gather(*(batcher.infer(feeds) for feeds in many), return_exceptions=True)


class Gate:
    """A session that is busy until it is let go, so that what arrives meanwhile has to wait."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._begun = threading.Event()
        self.open = threading.Event()

    async def is_busy(self) -> None:
        """Return once something runs."""
        assert await asyncio.to_thread(self._begun.wait, 30)

    def run(self, feeds: Mapping[str, Array]) -> Outputs:
        self._begun.set()
        assert self.open.wait(30)
        return self._model.run(feeds)


requests = st.lists(st.tuples(st.integers(1, 5), st.integers(1, 2)), min_size=1, max_size=12)


@given(requests, st.integers(1, 8))
def test_batches_are_of_like_requests_in_their_order_within_the_limit(sizes: Sizes, limit: int) -> None:
    queue, taken = Queue(), []
    asked = [waiting(*size) for size in sizes]
    for item in asked:
        queue.add(item)
    while queue:
        batch = queue.take(limit)
        assert len({item.shape for item in batch}) == 1
        assert len(batch) == 1 or sum(item.rows for item in batch) <= limit
        taken += batch

    for shape in {item.shape for item in asked}:
        assert [item for item in taken if item.shape == shape] == [item for item in asked if item.shape == shape]
    assert len(taken) == len(asked)


def test_a_batch_is_no_smaller_than_it_has_to_be() -> None:
    queue = Queue()
    for rows in (2, 3, 3, 4):
        queue.add(waiting(rows, 1))

    assert [[item.rows for item in queue.take(8)] for _ in range(2)] == [[2, 3, 3], [4]]


def test_shapes_take_turns() -> None:
    queue = Queue()
    for columns in (1, 1, 1, 2, 3):
        queue.add(waiting(1, columns))

    assert [queue.take(1)[0].shape for _ in range(5)] == [(1,), (2,), (3,), (1,), (1,)]


def test_an_empty_queue_makes_no_batch() -> None:
    assert Queue().take(8) == []


@settings(max_examples=30, deadline=None)
@given(
    sizes=requests,
    limit=st.integers(1, 16),
    delay=st.sampled_from([0.0, 0.001]),
    seed=st.integers(0, 1000),
    in_loop=st.booleans(),
    lone=st.booleans(),
)
def test_every_answer_is_that_of_a_lone_call(
    echo: Model, sizes: Sizes, limit: int, delay: float, seed: int, in_loop: bool, lone: bool
) -> None:
    random = np.random.default_rng(seed)
    many = [{"x": random.random(size, dtype=np.float32)} for size in sizes]

    async def scenario() -> tuple[list[Any], list[int]]:
        runs: list[int] = []
        return await run_all(batcher_of(echo.run, Limits(limit, delay), runs, in_loop, lone), many), runs

    answers, runs = asyncio.run(scenario())
    for feeds, answer in zip(many, answers, strict=True):
        assert np.array_equal(answer["y"], echo.backend.run(["y"], dict(feeds))[0])
    assert sum(runs) == sum(rows for rows, _ in sizes)


def test_what_arrives_during_a_run_is_the_next_batch(echo: Model) -> None:
    async def scenario() -> list[int]:
        runs: list[int] = []
        gate = Gate(echo)
        batcher = batcher_of(gate.run, Limits(8), runs)
        first = asyncio.create_task(batcher.infer({"x": np.zeros((1, 2), np.float32)}))
        await gate.is_busy()
        others = [asyncio.create_task(batcher.infer({"x": np.zeros((1, 2), np.float32)})) for _ in range(10)]
        await asyncio.sleep(0)
        gate.open.set()
        await asyncio.gather(first, *others)
        return runs

    assert asyncio.run(scenario()) == [1, 8, 2]


def test_a_full_batch_does_not_wait_for_the_delay(echo: Model) -> None:
    async def scenario() -> list[int]:
        runs: list[int] = []
        batcher = batcher_of(echo.run, Limits(4, delay_seconds=3600), runs)
        await run_all(batcher, [{"x": np.zeros((1, 2), np.float32)}] * 8)
        return runs

    assert asyncio.run(scenario()) == [4, 4]


def test_a_poisonous_request_fails_its_own_caller_only(fragile: Model) -> None:
    numbers = [0, 1, 99, 3, 2]

    async def scenario() -> tuple[list[Any], list[int]]:
        runs: list[int] = []
        batcher = batcher_of(fragile.run, Limits(8, delay_seconds=0.001), runs)
        return await run_all(batcher, [{"index": np.array([number])} for number in numbers]), runs

    answers, runs = asyncio.run(scenario())
    assert runs == [5, 1, 1, 1, 1, 1]
    assert isinstance(answers[2], InferenceFailed)
    assert [answers[at]["row"].tolist() for at in (0, 1, 3, 4)] == [[[0, 1]], [[2, 3]], [[6, 7]], [[4, 5]]]


@pytest.mark.parametrize("limits", [Limits(1, queued_rows=4), Limits(1, queued_rows=100, queued_bytes=32)])
def test_more_than_may_wait_is_refused_and_the_rest_is_answered(echo: Model, limits: Limits) -> None:
    async def scenario() -> list[Any]:
        gate = Gate(echo)
        batcher = batcher_of(gate.run, limits)
        running = asyncio.create_task(batcher.infer({"x": np.zeros((1, 2), np.float32)}))
        await gate.is_busy()
        others = asyncio.gather(
            *(batcher.infer({"x": np.zeros((1, 2), np.float32)}) for _ in range(5)), return_exceptions=True
        )
        await asyncio.sleep(0)
        gate.open.set()
        await running
        return await others

    answers = asyncio.run(scenario())
    assert [isinstance(answer, Busy) for answer in answers] == [False, False, False, True, True]


def test_one_request_larger_than_everything_is_still_answered(echo: Model) -> None:
    async def scenario() -> Outputs:
        batcher = batcher_of(echo.run, Limits(2, queued_rows=4))
        return await batcher.infer({"x": np.ones((50, 2), np.float32)})

    assert asyncio.run(scenario())["y"].shape == (50, 2)


def test_a_caller_that_left_is_not_computed(echo: Model) -> None:
    async def scenario() -> list[int]:
        runs: list[int] = []
        gate = Gate(echo)
        batcher = batcher_of(gate.run, Limits(8), runs)
        running = asyncio.create_task(batcher.infer({"x": np.zeros((1, 2), np.float32)}))
        await gate.is_busy()
        gone = asyncio.create_task(batcher.infer({"x": np.zeros((3, 2), np.float32)}))
        stays = asyncio.create_task(batcher.infer({"x": np.zeros((2, 2), np.float32)}))
        await asyncio.sleep(0)
        gone.cancel()
        await asyncio.sleep(0)
        gate.open.set()
        await asyncio.gather(running, stays)
        return runs

    assert asyncio.run(scenario()) == [1, 2]


def test_a_caller_whose_time_is_over_is_told_so_and_not_computed(echo: Model) -> None:
    async def scenario() -> tuple[list[Any], list[int]]:
        runs: list[int] = []
        gate = Gate(echo)
        batcher = batcher_of(gate.run, Limits(8), runs)
        running = asyncio.create_task(batcher.infer({"x": np.zeros((1, 2), np.float32)}))
        await gate.is_busy()
        others = [
            asyncio.create_task(batcher.infer({"x": np.zeros((rows, 2), np.float32)}, timeout))
            for rows, timeout in ((3, 0.01), (2, 30.0))
        ]
        await asyncio.sleep(0.05)
        gate.open.set()
        await running
        return await asyncio.gather(*others, return_exceptions=True), runs

    answers, runs = asyncio.run(scenario())
    assert isinstance(answers[0], Late)
    assert len(answers[1]["y"]) == 2
    assert runs == [1, 2]


LONG = [(50, 1), (3, 1), (41, 2), (1, 1), (20, 1)]


@pytest.mark.parametrize("in_loop", [True, False])
@pytest.mark.parametrize("limit", [1, 4, 7])
def test_requests_of_very_many_rows_run_in_pieces_and_are_answered_whole(
    echo: Model, limit: int, in_loop: bool
) -> None:
    runs: list[int] = []
    many = [{"x": np.arange(rows * columns, dtype=np.float32).reshape(rows, columns)} for rows, columns in LONG]
    batcher = in_pieces(echo.run, Limits(limit, wait_seconds=3600), runs, in_loop)
    answers = asyncio.run(run_all(batcher, many))
    for feeds, answer in zip(many, answers, strict=True):
        np.testing.assert_array_equal(answer["y"], feeds["x"])
    assert max(runs) <= 2 * limit + 1
    assert sum(runs) == sum(rows for rows, _ in LONG)
    assert batcher.is_idle


def in_pieces(run: Run, limits: Limits, runs: list[int], in_loop: bool = False) -> Batcher:
    return Batcher(run, limits, COSTS, lambda rows, _: runs.append(rows), in_loop, piece_rows=limits.batch_rows)


def test_a_piece_is_short_inside_the_loop_and_as_much_as_may_run_together_in_a_thread() -> None:
    costs = Costs((1, 4), (0.0001, 0.00011))
    assert piece_rows(costs, 4, 32, in_loop=True) == 8  # two batches take less than a third of a millisecond
    assert piece_rows(costs, 4, 32, in_loop=False) == 108
    slow = Costs((1,), (0.5,))  # whose trial was over before it came to two rows
    assert piece_rows(slow, 1, 32, in_loop=False) == 32


def test_answers_that_do_not_make_up_one_are_an_error_and_hold_nothing(echo: Model) -> None:
    """An output whose other axis hangs on the values: each piece has its own."""

    def growing(feeds: Mapping[str, Array]) -> Outputs:
        return {"y": np.zeros((len(feeds["x"]), 1 + int(feeds["x"].max())), np.float32)}

    async def scenario() -> tuple[list[Any], bool]:
        batcher = in_pieces(growing, Limits(2), [])
        answers = await run_all(batcher, [{"x": np.arange(20, dtype=np.float32).reshape(20, 1)}])
        return answers, batcher.is_idle

    answers, is_idle = asyncio.run(scenario())
    assert isinstance(answers[0], InferenceFailed)
    assert is_idle


def test_lone_calls_do_not_make_bursts_look_slow() -> None:
    """A run of one row costs nearly as much as one of many: what a row costs in the one says nothing of the other."""
    forecast = Forecast(Costs((1, 32), (0.004, 0.0072)), 32)
    for _ in range(100):
        forecast.learn(1, 0.004)
    assert forecast.of_queue(64) == pytest.approx(0.0144)
    assert forecast.of_queue(65) == pytest.approx(0.0216)
    for _ in range(100):
        forecast.learn(1, 0.008)  # a machine that has become half as fast
    assert forecast.of_queue(64) == pytest.approx(0.0288, rel=0.01)


def test_others_have_their_turn_between_two_pieces(echo: Model) -> None:
    async def scenario() -> list[str]:
        ended: list[str] = []
        batcher = in_pieces(echo.run, Limits(2), [], in_loop=True)

        async def ask(name: str, rows: int) -> None:
            await batcher.infer({"x": np.zeros((rows, 2), np.float32)})
            ended.append(name)

        await asyncio.gather(ask("long", 1000), ask("short", 1))
        return ended

    assert asyncio.run(scenario()) == ["short", "long"]


def test_a_caller_that_leaves_in_the_midst_of_its_rows_is_computed_no_further(echo: Model) -> None:
    async def scenario() -> tuple[int, bool]:
        runs: list[int] = []
        batcher = in_pieces(echo.run, Limits(1), runs, in_loop=True)
        asked = asyncio.create_task(batcher.infer({"x": np.zeros((100_000, 2), np.float32)}))
        while len(runs) < 10:
            await asyncio.sleep(0)
        asked.cancel()
        await asyncio.gather(asked, return_exceptions=True)
        await asyncio.sleep(0.05)
        return len(runs), batcher.is_idle

    ran, is_idle = asyncio.run(scenario())
    assert ran < 100
    assert is_idle


def test_a_piece_that_fails_fails_its_request_and_no_other(fragile: Model) -> None:
    async def scenario() -> tuple[list[Any], bool]:
        batcher = in_pieces(fragile.run, Limits(2), [])
        bad, good = np.zeros(50, np.int64), np.ones(50, np.int64)
        bad[20] = 9
        answers = await run_all(batcher, [{"index": bad}, {"index": good}])
        return answers, batcher.is_idle

    (failed, answered), is_idle = asyncio.run(scenario())
    assert isinstance(failed, InferenceFailed)
    assert len(answered["row"]) == 50
    assert is_idle


def test_a_batcher_tells_whether_there_is_room_before_a_request_is_read(echo: Model) -> None:
    async def scenario() -> list[bool]:
        gate = Gate(echo)
        batcher = batcher_of(gate.run, Limits(1, wait_seconds=1.0), costs=Costs((1,), (0.1,)))
        found, asked = [], []
        for _ in range(3):
            found.append(has_room(batcher))
            asked += [asyncio.create_task(batcher.infer({"x": np.zeros((1, 2), np.float32)})) for _ in range(5)]
            await gate.is_busy()
        gate.open.set()
        await asyncio.gather(*asked, return_exceptions=True)
        return [*found, has_room(batcher)]

    assert asyncio.run(scenario()) == [True, True, False, True]


def test_who_waits_for_less_than_the_queue_takes_is_told_before_the_request_is_read(echo: Model) -> None:
    async def scenario() -> list[bool]:
        gate = Gate(echo)
        batcher = batcher_of(gate.run, Limits(1, wait_seconds=1.0), costs=Costs((1,), (0.1,)))
        found = [has_room(batcher, 0.05)]  # which nobody is before
        asked = [asyncio.create_task(batcher.infer({"x": np.zeros((1, 2), np.float32)})) for _ in range(3)]
        await gate.is_busy()
        found += [has_room(batcher, 0.35), has_room(batcher, 0.45), has_room(batcher)]
        gate.open.set()
        await asyncio.gather(*asked)
        return found

    assert asyncio.run(scenario()) == [True, False, True, True]


def has_room(batcher: Batcher, timeout: float | None = None) -> bool:
    try:
        batcher.check_room(timeout)
    except Busy:
        return False
    return True


def test_what_would_be_late_by_the_end_of_its_run_is_not_computed_while_others_wait(echo: Model) -> None:
    def slow(feeds: Mapping[str, Array]) -> Outputs:
        time.sleep(0.1)
        return echo.run(feeds)

    async def scenario() -> tuple[list[Any], list[int]]:
        runs: list[int] = []
        batcher = batcher_of(slow, Limits(1), runs, costs=Costs((1,), (0.05,)))  # it takes twice as long as expected
        row = {"x": np.zeros((1, 2), np.float32)}
        asked = [asyncio.create_task(batcher.infer(row, timeout)) for timeout in (None, 0.13, None)]
        return await asyncio.gather(*asked, return_exceptions=True), runs

    answers, runs = asyncio.run(scenario())
    assert isinstance(answers[1], Late)
    assert [len(answers[at]["y"]) for at in (0, 2)] == [1, 1]
    assert runs == [1, 1]


def test_who_waits_alone_is_computed_though_the_forecast_leaves_no_time_for_it(echo: Model) -> None:
    async def scenario() -> list[Any]:
        batcher = batcher_of(echo.run, Limits(1), costs=Costs((1,), (60.0,)))
        row = {"x": np.zeros((1, 2), np.float32)}
        return [await batcher.infer(row, 20.0) for _ in range(3)]

    assert [len(answer["y"]) for answer in asyncio.run(scenario())] == [1, 1, 1]


@pytest.mark.parametrize(("timeout", "taken"), [(None, 40), (0.5, 20)])
def test_what_would_wait_too_long_is_refused_at_once_with_the_time_to_wait(
    echo: Model, timeout: float | None, taken: int
) -> None:
    costs = Costs((1, 4), (0.1, 0.1))  # a second is ten batches of four

    async def scenario() -> list[Any]:
        gate = Gate(echo)
        batcher = batcher_of(gate.run, Limits(4, wait_seconds=1.0), costs=costs)
        asked = [asyncio.create_task(batcher.infer({"x": np.zeros((1, 2), np.float32)}, timeout)) for _ in range(60)]
        await gate.is_busy()
        gate.open.set()
        return await asyncio.gather(*asked, return_exceptions=True)

    answers = asyncio.run(scenario())
    refused = [answer for answer in answers if isinstance(answer, Busy)]
    assert len(answers) - len(refused) == taken
    assert refused[0].retry_after == math.ceil(timeout or 1.1)


def test_an_answer_that_cannot_be_given_does_not_keep_others_from_theirs(echo: Model) -> None:
    given: list[Any] = []

    def broken(_: Any) -> None:
        raise RuntimeError("this caller's connection is in a bad state")

    async def scenario() -> None:
        batcher = batcher_of(echo.run, Limits(8), in_loop=True)
        for done in (broken, given.append, broken, given.append):
            batcher.submit({"x": np.zeros((1, 2), np.float32)}, done)
        await asyncio.sleep(0.01)

    asyncio.run(scenario())
    assert [len(answer["y"]) for answer in given] == [1, 1]


def test_a_row_that_finds_nobody_runs_in_the_loop_and_those_that_come_together_in_the_thread(echo: Model) -> None:
    async def scenario() -> list[str]:
        seen: list[str] = []

        def run(feeds: Any) -> Any:
            seen.append(threading.current_thread().name)
            return echo.run(feeds)

        batcher, row = batcher_of(run, Limits(8), lone=True), {"x": np.zeros((1, 2), np.float32)}
        for _ in range(3):
            await batcher.infer(row)
        await run_all(batcher, [row] * 4)
        await batcher.infer({"x": np.zeros((2, 2), np.float32)})  # costs more than was measured of a row
        await batcher.infer(row)
        return seen

    here = threading.current_thread().name
    seen = asyncio.run(scenario())
    assert seen[:3] == [here] * 3
    assert set(seen[3:-1]) == {"session"}
    assert seen[-1] == here


def test_a_caller_that_left_alone_is_not_computed_and_keeps_nobody_waiting(echo: Model) -> None:
    async def scenario() -> list[int]:
        runs: list[int] = []
        batcher, row = batcher_of(echo.run, Limits(8), runs, lone=True), {"x": np.zeros((1, 2), np.float32)}
        batcher.submit(row, lambda _: None).left = True
        for _ in range(3):  # turns of the loop
            await asyncio.sleep(0)
        assert batcher.is_idle
        await batcher.infer(row)
        return runs

    assert asyncio.run(scenario()) == [1]


def test_a_row_of_one_model_runs_in_the_thread_while_another_model_has_something_to_do(echo: Model) -> None:
    async def scenario() -> list[str]:
        seen: list[str] = []

        def run(feeds: Any) -> Any:
            seen.append(threading.current_thread().name)
            return echo.run(feeds)

        turns, row = Turns(), {"x": np.zeros((1, 2), np.float32)}
        one, other = (Batcher(run, Limits(8), COSTS, turns=turns, lone_in_loop=True) for _ in range(2))
        await asyncio.gather(one.infer(row), other.infer(row))
        await one.infer(row)
        return seen

    seen = asyncio.run(scenario())
    assert set(seen[:2]) == {"session"}
    assert seen[2] == threading.current_thread().name


def test_between_runs_inside_the_loop_other_work_has_its_turn(echo: Model) -> None:
    async def scenario() -> list[str]:
        seen: list[str] = []
        batcher = batcher_of(echo.run, Limits(1), in_loop=True)
        for number in range(3):
            batcher.submit({"x": np.zeros((1, 2), np.float32)}, lambda _, number=number: seen.append(f"run {number}"))
        asyncio.get_running_loop().call_later(0, seen.append, "something else")
        await asyncio.sleep(0.01)
        return seen

    seen = asyncio.run(scenario())
    assert seen.index("something else") < seen.index("run 2")
