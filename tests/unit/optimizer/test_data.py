"""Data sets that do not fit their model are refused, with what was expected and what was found."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from trimtab_api.errors import InvalidData
from trimtab_api.package import ModelPackage
from trimtab_optimizer.data import load_data
from trimtab_optimizer.labels import Task, task_of

PACKAGE = ModelPackage.parse(
    {
        "name": "linear",
        "format": "onnx",
        "inputs": [{"name": "x", "shape": [-1, 4]}],
        "outputs": [{"name": "y", "shape": [-1, 3]}],
    }
)
ROWS = np.zeros((20, 4), np.float32)
BROKEN = ROWS.copy()
BROKEN[3, 2] = np.nan


def test_rows_come_in_batches_up_to_a_limit(data_package: Callable[..., Path]) -> None:
    data = load_data(data_package(), PACKAGE, evaluation=True)

    assert data.rows == 20
    assert [len(batch["x"]) for batch in data.batches(8)] == [8, 8, 4]
    assert [len(batch["x"]) for batch in data.batches(8, limit=10)] == [8, 2]


def test_safetensors_are_read_too(tmp_path: Path) -> None:
    safetensors.numpy.save_file({"x": ROWS, "label": np.arange(20) % 3}, tmp_path / "rows.safetensors")

    assert load_data(tmp_path, PACKAGE, evaluation=True).rows == 20


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"x": None, "pixels": ROWS}, r"no array `x` \(found: label, pixels\)"),
        ({"x": ROWS.astype(np.float64)}, r"`x` is float64, expected float32"),
        ({"x": ROWS[:, :3]}, r"`x` has the shape \[20, 3\], expected \[-1, 4\]"),
        ({"x": ROWS[0]}, r"`x` has the shape \[4\], expected \[-1, 4\]"),
        ({"x": BROKEN}, r"`x` holds values that are no numbers"),
        ({"label": np.zeros(19, np.int64)}, r"differ in their number of rows: \{'x': 20, 'label': 19\}"),
        ({"label": np.zeros(20, np.float32)}, r"`label` is float32 of shape \[20\], expected integers"),
        ({"label": np.zeros((20, 3), np.int64)}, r"`label` is int64 of shape \[20, 3\], expected integers"),
        ({"label": np.full(20, 3)}, r"`label` goes from 3 to 3, expected 0 to 2"),
        ({"label": np.full(20, -1)}, r"`label` goes from -1 to -1, expected 0 to 2"),
        ({"label": np.zeros((20, 4), np.float32)}, r"or floats of shape \[-1, 3\], the values of y"),
        ({"label": np.full((20, 3), np.nan)}, r"`label` holds values that are no numbers"),
        (
            {"label": np.full(20, 2)},
            r"every row has the class 2, so whatever always answers 2 would be right; take rows of",
        ),
        ({"x": ROWS[:0], "label": np.zeros(0, np.int64)}, r"the data is empty"),
    ],
)
def test_data_that_does_not_fit_is_refused(data_package: Callable[..., Path], changes: Any, named: str) -> None:
    with pytest.raises(InvalidData, match=named):
        load_data(data_package(**changes), PACKAGE, evaluation=True)


@pytest.mark.parametrize("evaluation", [True, False])
def test_data_needs_no_labels(data_package: Callable[..., Path], evaluation: bool) -> None:
    assert load_data(data_package(label=None), PACKAGE, evaluation).labels is None


def test_calibration_data_may_be_of_one_class(data_package: Callable[..., Path]) -> None:
    assert load_data(data_package(label=np.full(20, 2)), PACKAGE, evaluation=False).rows == 20


def package(*shape: int, **changes: Any) -> ModelPackage:
    outputs = [{"name": "y", "shape": [-1, *shape]}]
    return ModelPackage.parse({**PACKAGE.to_dict(), "outputs": outputs, **changes})


TOKENS = np.arange(100, dtype=np.int32).reshape(20, 5) % 7


@pytest.mark.parametrize(
    ("shape", "label", "task"),
    [
        ((3,), np.arange(20) % 3, Task.CLASSES),
        ((3,), np.zeros((20, 3)), Task.VALUES),
        ((1,), np.zeros(20, np.float32), Task.VALUES),
        ((), np.zeros(20, np.float32), Task.VALUES),
        ((5, 7), TOKENS, Task.TOKENS),
        ((-1, -1), np.where(TOKENS == 3, -100, TOKENS), Task.TOKENS),
        ((5, 7), np.zeros((20, 5, 7)), Task.VALUES),
    ],
)
def test_labels_say_what_is_measured(
    data_package: Callable[..., Path], shape: tuple[int, ...], label: Any, task: Task
) -> None:
    data = load_data(data_package(label=label), package(*shape), evaluation=True)

    assert task_of(data.labels, package(*shape)) is task


@pytest.mark.parametrize(
    ("shape", "label", "named"),
    [
        ((5, 7), TOKENS + 1, r"`label` goes from 1 to 7, expected 0 to 6"),
        ((5, 7), TOKENS - 50, r"`label` goes from -50 to -44, expected 0 to 6"),
        ((5, 7), np.full((20, 5), -100), r"every `label` is -100, so no token counts; label some tokens, or leave"),
        ((5, 7), np.zeros((20, 5)), r"expected integers of shape \[-1\].*of shape \[-1, 5\], the token at each place"),
        ((1,), np.arange(20) % 2, r"the first output has one value, which is no class; write `label` as floats"),
    ],
)
def test_labels_that_do_not_fit_the_output_are_refused(
    data_package: Callable[..., Path], shape: tuple[int, ...], label: Any, named: str
) -> None:
    with pytest.raises(InvalidData, match=named):
        load_data(data_package(label=label), package(*shape), evaluation=True)


def test_labels_of_any_form_are_left_to_a_packages_own_metrics(data_package: Callable[..., Path]) -> None:
    own = package(3, format="pytorch", entrypoint="a:b", weights="c", metrics={"overlap": "a:overlap"})

    data = load_data(data_package(label=np.zeros((20, 4), np.float32)), own, evaluation=True)

    assert task_of(data.labels, own) is None


def test_pickled_arrays_are_not_read(data_package: Callable[..., Path]) -> None:
    with pytest.raises(InvalidData, match="write plain arrays, no objects"):
        load_data(data_package(x=np.array([{"a": 1}] * 20, dtype=object)), PACKAGE, evaluation=True)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04broken", b"text"], ids=["empty", "broken", "text"])
def test_files_that_are_no_arrays_are_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "data.npz").write_bytes(content)

    with pytest.raises(InvalidData, match=r"data\.npz cannot be read"):
        load_data(tmp_path, PACKAGE, evaluation=True)


def test_a_package_without_data_or_with_two_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidData, match="found: none"):
        load_data(tmp_path, PACKAGE, evaluation=True)
    for name in ("a.npz", "b.npz"):
        np.savez(tmp_path / name, x=ROWS)
    with pytest.raises(InvalidData, match=r"found: a\.npz, b\.npz"):
        load_data(tmp_path, PACKAGE, evaluation=True)
