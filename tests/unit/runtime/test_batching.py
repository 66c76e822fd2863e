"""Batching changes when rows run, never what comes out."""

import asyncio
import threading
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trimtab_runtime.batching import Batcher, Limits, Outputs, Waiting, run_together
from trimtab_runtime.model.session import Model, load_model
from trimtab_runtime.protocol.errors import Busy, InferenceFailed
from trimtab_runtime.protocol.tensors import Array

Sizes = list[tuple[int, int]]  # rows and columns of each request


@pytest.fixture(scope="module")
def echo(models: Any) -> Model:
    return load_model(models.echo("FP32"), threads=1)


@pytest.fixture(scope="module")
def fragile(models: Any) -> Model:
    return load_model(models.fragile(), threads=1)


def waiting(rows: int, columns: int) -> Waiting:
    return Waiting({}, rows, 0, (columns,), 0.0, None)  # type: ignore[arg-type]


async def run_all(batcher: Batcher, many: Sequence[Mapping[str, Array]]) -> list[Any]:
    return await asyncio.gather(*(batcher.infer(feeds) for feeds in many), return_exceptions=True)


class Gate:
    """A session that is busy until it is let go, so that what arrives meanwhile has to wait."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self.open = threading.Event()

    def run(self, feeds: Mapping[str, Array]) -> Outputs:
        assert self.open.wait(30)
        return self._model.run(feeds)


requests = st.lists(st.tuples(st.integers(1, 5), st.integers(1, 2)), min_size=1, max_size=12)


@given(requests, st.integers(1, 8))
def test_a_batch_is_a_run_of_like_requests_within_the_limit(sizes: Sizes, limit: int) -> None:
    count = run_together([waiting(*size) for size in sizes], limit)
    batch, rest = sizes[:count], sizes[count:]
    assert count >= 1
    assert len({columns for _, columns in batch}) == 1
    assert count == 1 or sum(rows for rows, _ in batch) <= limit
    if rest and rest[0][1] == batch[0][1]:
        assert sum(rows for rows, _ in batch) + rest[0][0] > limit  # no smaller than it has to be


def test_an_empty_queue_makes_no_batch() -> None:
    assert run_together([], 8) == 0


@settings(max_examples=30, deadline=None)
@given(sizes=requests, limit=st.integers(1, 16), delay=st.sampled_from([0.0, 0.001]), seed=st.integers(0, 1000))
def test_every_answer_is_that_of_a_lone_call(echo: Model, sizes: Sizes, limit: int, delay: float, seed: int) -> None:
    random = np.random.default_rng(seed)
    many = [{"x": random.random(size, dtype=np.float32)} for size in sizes]

    async def scenario() -> tuple[list[Any], list[int]]:
        runs: list[int] = []
        return await run_all(Batcher(echo.run, Limits(limit, delay), runs.append), many), runs

    answers, runs = asyncio.run(scenario())
    for feeds, answer in zip(many, answers, strict=True):
        assert np.array_equal(answer["y"], echo.backend.run(["y"], dict(feeds))[0])
    assert sum(runs) == sum(rows for rows, _ in sizes)


def test_what_arrives_during_a_run_is_the_next_batch(echo: Model) -> None:
    async def scenario() -> list[int]:
        runs: list[int] = []
        gate = Gate(echo)
        batcher = Batcher(gate.run, Limits(8), runs.append)
        first = asyncio.create_task(batcher.infer({"x": np.zeros((1, 2), np.float32)}))
        await asyncio.sleep(0)  # the first one is asked for
        await asyncio.sleep(0)  # and runs
        others = [asyncio.create_task(batcher.infer({"x": np.zeros((1, 2), np.float32)})) for _ in range(10)]
        await asyncio.sleep(0)
        gate.open.set()
        await asyncio.gather(first, *others)
        return runs

    assert asyncio.run(scenario()) == [1, 8, 2]


def test_a_full_batch_does_not_wait_for_the_delay(echo: Model) -> None:
    async def scenario() -> list[int]:
        runs: list[int] = []
        batcher = Batcher(echo.run, Limits(4, delay_seconds=3600), runs.append)
        await run_all(batcher, [{"x": np.zeros((1, 2), np.float32)}] * 8)
        return runs

    assert asyncio.run(scenario()) == [4, 4]


def test_a_poisonous_request_fails_its_own_caller_only(fragile: Model) -> None:
    numbers = [0, 1, 99, 3, 2]

    async def scenario() -> tuple[list[Any], list[int]]:
        runs: list[int] = []
        batcher = Batcher(fragile.run, Limits(8, delay_seconds=0.001), runs.append)
        return await run_all(batcher, [{"index": np.array([number])} for number in numbers]), runs

    answers, runs = asyncio.run(scenario())
    assert runs == [5, 1, 1, 1, 1, 1]
    assert isinstance(answers[2], InferenceFailed)
    assert [answers[at]["row"].tolist() for at in (0, 1, 3, 4)] == [[[0, 1]], [[2, 3]], [[6, 7]], [[4, 5]]]


@pytest.mark.parametrize("limits", [Limits(1, queued_rows=3), Limits(1, queued_rows=100, queued_bytes=24)])
def test_more_than_may_wait_is_refused_and_the_rest_is_answered(echo: Model, limits: Limits) -> None:
    async def scenario() -> list[Any]:
        gate = Gate(echo)
        batcher = Batcher(gate.run, limits, lambda _: None)
        running = asyncio.create_task(batcher.infer({"x": np.zeros((1, 2), np.float32)}))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
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
        batcher = Batcher(echo.run, Limits(2, queued_rows=4), lambda _: None)
        return await batcher.infer({"x": np.ones((50, 2), np.float32)})

    assert asyncio.run(scenario())["y"].shape == (50, 2)


def test_a_caller_that_left_is_not_computed(echo: Model) -> None:
    async def scenario() -> list[int]:
        runs: list[int] = []
        gate = Gate(echo)
        batcher = Batcher(gate.run, Limits(8), runs.append)
        running = asyncio.create_task(batcher.infer({"x": np.zeros((1, 2), np.float32)}))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        gone = asyncio.create_task(batcher.infer({"x": np.zeros((3, 2), np.float32)}))
        stays = asyncio.create_task(batcher.infer({"x": np.zeros((2, 2), np.float32)}))
        await asyncio.sleep(0)
        gone.cancel()
        await asyncio.sleep(0)
        gate.open.set()
        await asyncio.gather(running, stays)
        return runs

    assert asyncio.run(scenario()) == [1, 2]
