"""Attributions are what their definitions say."""

from itertools import combinations
from math import factorial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trimtab_explainer.methods import TimeIsOver, Value, lime, shapley
from trimtab_runtime.protocol.errors import BadRequest, Late


def game(count: int, seed: int) -> Value:
    """Return answers to sets of features in which every set has a value of its own: all interactions there are."""
    table = np.random.default_rng(seed).standard_normal(2**count)
    return lambda masks: table[masks @ (1 << np.arange(count))]


def exactly(value: Value, count: int) -> np.ndarray:
    """Return Shapley values by their definition."""
    found = np.zeros(count)
    for feature in range(count):
        others = [at for at in range(count) if at != feature]
        for size in range(count):
            weight = factorial(size) * factorial(count - size - 1) / factorial(count)
            for chosen in combinations(others, size):
                without = np.zeros((1, count), bool)
                without[0, list(chosen)] = True
                with_it = without.copy()
                with_it[0, feature] = True
                found[feature] += weight * float(value(with_it)[0] - value(without)[0])
    return found


@settings(max_examples=20, deadline=None)
@given(count=st.integers(1, 6), seed=st.integers(0, 1000))
def test_shapley_values_come_near_their_definition_within_the_error_they_tell(count: int, seed: int) -> None:
    value = game(count, seed)
    found = shapley(value, count, samples=20_000, seed=1)
    errors = np.zeros(count) if found.errors is None else found.errors
    np.testing.assert_array_less(np.abs(found.values - exactly(value, count)), 6 * errors + 1e-9)


@settings(max_examples=50, deadline=None)
@given(count=st.integers(1, 40), seed=st.integers(0, 1000))
def test_shapley_values_sum_to_what_the_answer_has_over_the_base(count: int, seed: int) -> None:
    weights = np.random.default_rng(seed).standard_normal((count, count))

    def value(masks: np.ndarray) -> np.ndarray:
        return np.tanh(np.einsum("ni,ij,nj->n", masks, weights, masks))

    found = shapley(value, count, samples=500, seed=seed)
    everything = float(value(np.ones((1, count), bool))[0])
    assert found.base + found.values.sum() == pytest.approx(everything, abs=1e-9)
    assert found.samples <= 500


def test_of_a_sum_both_methods_find_the_terms() -> None:
    weights = np.array([3.0, -2.0, 0.0, 0.5, 1.0])
    for method, near in ((shapley, 1e-12), (lime, 0.02)):
        found = method(lambda masks: masks @ weights + 7, 5, samples=2000, seed=0)
        np.testing.assert_allclose(found.values, weights, atol=near)
        assert found.base == pytest.approx(7, abs=near)
    assert found.fit is not None
    assert found.fit > 0.99


def test_the_fit_of_lime_tells_when_answers_are_not_linear() -> None:
    found = lime(lambda masks: (masks.sum(axis=1) % 2).astype(float), 12, samples=2000, seed=0)
    assert found.fit is not None
    assert found.fit < 0.5


def test_the_same_seed_gives_the_same_explanation() -> None:
    for method in (shapley, lime):
        same, again, other = (method(game(6, 3), 6, 40, seed).values for seed in (1, 1, 2))
        np.testing.assert_array_equal(same, again)
        assert not np.array_equal(same, other)


def out_of_time(after: int) -> Value:
    """Return answers that come until so many sets have been asked."""
    left = [after]

    def value(masks: np.ndarray) -> np.ndarray:
        left[0] -= len(masks)
        if left[0] < 0:
            raise TimeIsOver
        return masks.sum(axis=1).astype(float)

    return value


def test_what_was_found_when_the_time_is_over_is_told_as_incomplete() -> None:
    for method, enough in ((shapley, 60), (lime, 700)):
        found = method(out_of_time(enough), 10, samples=1000, seed=0)
        assert not found.is_complete
        assert 16 <= found.samples <= enough


@pytest.mark.parametrize("method", [shapley, lime])
def test_a_time_in_which_nothing_can_be_found_is_an_error_that_says_so(method: Value) -> None:
    with pytest.raises(Late, match="the time was over"):
        method(out_of_time(5), 10, samples=1000, seed=0)


@pytest.mark.parametrize("method", [shapley, lime])
def test_no_time_at_all_is_the_same_error(method: Value) -> None:
    with pytest.raises(Late):
        method(out_of_time(0), 10, samples=1000, seed=0)


def test_what_lime_would_fit_for_ever_is_refused_with_what_would_do() -> None:
    with pytest.raises(BadRequest, match="of 4096 features lime takes 976 samples at most, not 20000"):
        lime(out_of_time(0), 4096, samples=20_000, seed=0)


def test_too_few_samples_for_the_features_are_refused_with_what_would_do() -> None:
    with pytest.raises(BadRequest, match="100 features need at least 200 samples for shap, and 50 are allowed"):
        shapley(game(2, 0), 100, samples=50, seed=0)
