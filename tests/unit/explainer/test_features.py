"""What is hidden together, and what a model sees in its place."""

import numpy as np
import pytest

from trimtab_api.package import ModelPackage
from trimtab_explainer.features import Choice, features_of
from trimtab_runtime.protocol.errors import BadRequest
from trimtab_runtime.protocol.tensors import Array

OUTPUT = [{"name": "y", "datatype": "FP32", "shape": [-1, 2]}]


def package(**inputs: tuple[str, list[int]]) -> ModelPackage:
    described = [{"name": name, "datatype": kind, "shape": shape} for name, (kind, shape) in inputs.items()]
    return ModelPackage.parse({"name": "m", "format": "onnx", "inputs": described, "outputs": OUTPUT})


def shown(made: ModelPackage, row: dict[str, Array], mask: list[bool], **more: object) -> dict[str, Array]:
    choice = more.pop("choice", Choice())
    background = more.pop("background", {})
    return features_of(made, row, background, choice).shown(np.array([mask]))  # type: ignore[arg-type]


def test_columns_take_their_values_from_each_row_of_the_background() -> None:
    made = package(x=("FP32", [-1, 3]))
    row = {"x": np.array([[1, 2, 3]], np.float32)}
    background = {"x": np.array([[10, 20, 30], [40, 50, 60]], np.float32)}
    found = shown(made, row, [True, False, True], background=background)
    np.testing.assert_array_equal(found["x"], [[1, 20, 3], [1, 50, 3]])
    np.testing.assert_array_equal(shown(made, row, [True, False, True])["x"], [[1, 0, 3]])


def test_words_that_are_hidden_are_not_there() -> None:
    made = package(text=("BYTES", [-1, 1]))
    row = {"text": np.array([["a very good film"]], object)}
    features = features_of(made, row, {}, Choice())
    assert features.parts[0].names == ("a", "very", "good", "film")
    found = features.shown(np.array([[True, False, True, True], [False] * 4]))
    assert found["text"].tolist() == [["a good film"], [""]]


def test_tokens_become_the_number_of_no_token_and_their_mask_is_left_alone() -> None:
    made = package(input_ids=("INT64", [-1, -1]), attention_mask=("INT64", [-1, -1]))
    row = {"input_ids": np.array([[5, 6, 7]]), "attention_mask": np.ones((1, 3), np.int64)}
    found = shown(made, row, [True, False, True], choice=Choice(no_token=9))
    np.testing.assert_array_equal(found["input_ids"], [[5, 9, 7]])
    np.testing.assert_array_equal(found["attention_mask"], [[1, 1, 1]])


@pytest.mark.parametrize("first", [True, False])
def test_squares_of_an_image_are_hidden_behind_its_mean_in_all_channels(first: bool) -> None:
    shape = [3, 4, 6] if first else [4, 6, 3]
    image = np.arange(72, dtype=np.float32).reshape(1, *shape)
    features = features_of(package(x=("FP32", [-1, *shape])), {"x": image}, {}, Choice(squares=2))
    assert features.parts[0].shape == (2, 2)
    found = features.shown(np.array([[True, False, True, True]]))["x"]
    channels = (found, image) if first else (found.transpose(0, 3, 1, 2), image.transpose(0, 3, 1, 2))
    hidden = channels[0] != channels[1]
    assert hidden[0, :, :2, 3:].all()
    assert hidden.sum() == 3 * 2 * 3
    np.testing.assert_allclose(channels[0][0, :, 0, 4], channels[1].mean(axis=(2, 3))[0])


def test_of_a_series_each_step_is_a_feature() -> None:
    row = {"x": np.ones((1, 4, 5), np.float32)}
    found = shown(package(x=("FP32", [-1, 4, 5])), row, [True, True, False, True])
    np.testing.assert_array_equal(found["x"][0].sum(axis=1), [5, 5, 0, 5])


def test_several_inputs_are_explained_together_or_those_that_are_named() -> None:
    made = package(a=("FP32", [-1, 2]), b=("FP32", [-1, 3]))
    row = {"a": np.ones((1, 2), np.float32), "b": np.ones((1, 3), np.float32)}
    background = {"a": np.zeros((4, 2), np.float32)}
    both = features_of(made, row, background, Choice())
    assert (both.count, [part.input for part in both.parts]) == (5, ["a", "b"])
    found = both.shown(np.array([[True, False, True, False, True]]))
    assert found["a"].tolist() == [[1, 0]] * 4
    assert found["b"].tolist() == [[1, 0, 1]] * 4
    one = features_of(made, row, background, Choice(inputs=("b",)))
    assert one.count == 3
    assert one.shown(np.zeros((1, 3), bool))["a"].tolist() == [[1, 1]]


def test_rows_of_another_length_than_the_background_have_zeros_in_their_place() -> None:
    row = {"x": np.ones((1, 3), np.float32)}
    background = {"x": np.full((4, 2), 7, np.float32)}
    found = shown(package(x=("FP32", [-1, -1])), row, [True, False, False], background=background)
    np.testing.assert_array_equal(found["x"], [[1, 0, 0]])


def test_a_row_without_features_is_refused() -> None:
    row = {"text": np.array([[" "]], object)}
    with pytest.raises(BadRequest, match="the row has 0 features"):
        features_of(package(text=("BYTES", [-1, 1])), row, {}, Choice())
