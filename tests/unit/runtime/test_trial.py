"""What is learned of a model before it serves: how many rows pay, where it runs, and whether its rows mix."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper
from onnxruntime.quantization import quantize_dynamic

from trimtab_runtime.engine.costs import Costs, Forecast
from trimtab_runtime.engine.trial import is_for_the_loop, learn
from trimtab_runtime.model.session import load_model
from trimtab_runtime.protocol.tensors import Array

TOLERANCE = 1e-4
Rows = Mapping[str, Array]


def made_up(rows: int) -> Rows:
    return {"x": np.random.default_rng(0).standard_normal((rows, 4), np.float32)}


@pytest.mark.parametrize(
    ("rows", "seconds", "has_spare_cpu", "in_loop"),
    [
        (32, 0.0002, True, True),  # of which the loop spends more on each request than the model
        (1, 0.00005, True, True),
        (1, 0.0002, True, False),  # while it is computed, the loop can read and write
        (1, 0.0002, False, True),  # or could, if it had a CPU
        (32, 0.0004, True, False),  # would keep the loop from its callers
        (32, 0.0004, False, False),
    ],
)
def test_runs_are_in_the_loop_where_they_are_short_and_a_thread_would_win_nothing(
    rows: int, seconds: float, has_spare_cpu: bool, in_loop: bool
) -> None:
    assert is_for_the_loop(Costs((rows,), (seconds,)), rows, has_spare_cpu) is in_loop


def difference(run: Callable[[Rows], Rows]) -> float:
    return learn(run, made_up, 8, TOLERANCE).difference


def test_rows_that_are_computed_by_themselves_mix() -> None:
    assert difference(lambda feeds: {"y": np.tanh(feeds["x"])}) == 0


@pytest.mark.parametrize(
    "model",
    [
        lambda feeds: {"y": feeds["x"] - feeds["x"].mean(0)},
        lambda feeds: {"y": feeds["x"] / np.abs(feeds["x"]).max()},
        lambda feeds: {"y": feeds["x"][::-1]},
        lambda feeds: {"y": np.full(feeds["x"].shape, np.nan if len(feeds["x"]) > 1 else 0)},
        lambda feeds: {"y": np.argsort(feeds["x"], axis=0)},
        lambda feeds: {"y": feeds["x"][:, : len(feeds["x"])]},
    ],
)
def test_rows_that_depend_on_their_company_do_not_mix(model: Callable[[Rows], Rows]) -> None:
    learned = learn(model, made_up, 8, TOLERANCE)

    assert learned.difference > TOLERANCE
    assert learned.batch_rows == 1


def test_activations_that_are_quantized_by_the_largest_of_all_rows_do_not_mix(models: Any, tmp_path: Path) -> None:
    source = models.slow()
    folder = tmp_path / "int8"
    folder.mkdir()
    quantize_dynamic(source / "model.onnx", folder / "model.onnx")
    (folder / "model.yaml").write_text((source / "model.yaml").read_text())
    plain, int8 = (load_model(path, threads=1) for path in (source, folder))

    assert learn(plain.run, plain.make_rows, 8, TOLERANCE).difference < 1e-6
    learned = learn(int8.run, int8.make_rows, 8, TOLERANCE)
    assert (learned.difference > 1e-3, learned.batch_rows) == (True, 1)
    assert learn(int8.run, int8.make_rows, 8, 1.0).costs.rows[-1] > 1  # who accepts the difference has his batches


def test_a_model_whose_rows_are_never_joined_is_not_compared() -> None:
    assert learn(lambda feeds: {"y": feeds["x"].mean(0)[np.newaxis]}, made_up, 1, TOLERANCE).difference == 0


def test_words_beyond_a_vocabulary_do_not_keep_a_model_from_loading(models: Any) -> None:
    node = helper.make_node("Gather", ["table", "word"], ["row"], axis=0)
    table = {"table": np.ones((1, 2), np.float32)}  # one word: number 1 is none
    folder = models.write("one-word", [node], {"word": ("INT64", (-1,))}, {"row": ("FP32", (-1, 2))}, table)

    assert load_model(folder, threads=1).make_rows(3)["word"].tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    ("seconds", "rows"),
    [
        ((1.0, 2.0, 4.0, 8.0), 1),  # rows cost what they cost
        ((1.0, 1.0, 1.0, 1.0), 8),  # the run costs, not its rows
        ((1.0, 1.4, 2.1, 4.2), 4),  # from four on there is nothing to gain
        ((1.0, 3.0, 9.0, 30.0), 1),
    ],
)
def test_no_more_rows_run_together_than_pay(seconds: tuple[float, ...], rows: int) -> None:
    assert Costs((1, 2, 4, 8), seconds).useful_rows() == rows


@given(st.integers(1, 100))
def test_more_rows_are_expected_to_take_no_less_time(rows: int) -> None:
    costs = Costs((1, 2, 4, 8), (1.0, 1.5, 2.0, 3.0))

    assert costs.of(rows) <= costs.of(rows + 1)
    assert (costs.of(3), costs.of(16)) == (1.75, 6.0)


def test_a_machine_that_is_slower_than_at_the_trial_is_learned_from_runs() -> None:
    forecast = Forecast(Costs((1, 4), (0.1, 0.2)), batch_rows=4)
    assert forecast.of_queue(12) == pytest.approx(0.6)

    for _ in range(100):
        forecast.learn(4, 0.4)

    assert forecast.of_queue(12) == pytest.approx(1.2, rel=0.01)


def test_rows_that_cannot_run_together_are_expected_to_take_longer() -> None:
    forecast = Forecast(Costs((1, 4), (0.1, 0.2)), batch_rows=4)

    for _ in range(100):
        forecast.learn(1, 0.1, left_others=True)  # each of another shape

    assert forecast.of_queue(12) == pytest.approx(1.2, rel=0.01)


def test_words_whose_activations_share_a_scale_do_not_mix(models: Any) -> None:
    nodes = [
        helper.make_node("Gather", ["table", "words"], ["found"]),
        helper.make_node("DynamicQuantizeLinear", ["found"], ["low", "scale", "zero"]),
        helper.make_node("DequantizeLinear", ["low", "scale", "zero"], ["y"]),
    ]
    table = {"table": np.array([[0.1, 0.2], [5.0, -3.0], [0.0, 1.0]], np.float32)}
    shapes = {"words": ("INT64", (-1, -1))}, {"y": ("FP32", (-1, -1, 2))}
    model = load_model(models.write("words", nodes, *shapes, table), threads=1)

    assert learn(model.run, model.make_rows, 8, TOLERANCE).batch_rows == 1


def test_rows_that_are_all_alike_prove_nothing() -> None:
    learned = learn(lambda feeds: {"y": feeds["x"]}, lambda rows: {"x": np.zeros((rows, 4), np.float32)}, 8, TOLERANCE)

    assert (learned.difference, learned.batch_rows) == (float("inf"), 1)


def test_a_model_that_cannot_take_rows_of_another_scale_is_compared_without(models: Any) -> None:
    nodes = [
        helper.make_node("Cast", ["x"], ["index"], to=7),
        helper.make_node("Gather", ["table", "index"], ["y"]),
    ]
    table = {"table": np.arange(7, dtype=np.float32)}  # -7 to 6
    folder = models.write("narrow", nodes, {"x": ("FP32", (-1, 4))}, {"y": ("FP32", (-1, 4))}, table)
    model = load_model(folder, threads=1)

    learned = learn(model.run, model.make_rows, 8, TOLERANCE)

    assert learned.difference == 0
    assert learned.batch_rows >= 1
