"""Intervals and p-values, held against published ones."""

import numpy as np
import pytest

from trimtab_optimizer.measuring.significance import Paired, mcnemar_exact, pair, wilson_interval


@pytest.mark.parametrize(
    ("right", "rows", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_the_interval_of_a_share_is_that_of_newcombe_1998(right: int, rows: int, low: float, high: float) -> None:
    assert wilson_interval(right, rows) == pytest.approx((low, high), abs=5e-5)


def test_the_interval_of_all_right_ends_at_one() -> None:
    low, high = wilson_interval(20, 20)

    assert (low, high) == (pytest.approx(1 - 0.1611, abs=5e-5), 1.0)


@pytest.mark.parametrize(
    ("one", "other", "p_value"),
    [
        (121, 59, 0.000004),
        (70, 59, 0.378688),
        (80, 59, 0.089452),
        (30, 60, 0.00206),
        (10, 30, 0.002221),
        (10, 10, 1.0),
    ],
)
def test_the_exact_test_gives_the_values_of_vassarstats(one: int, other: int, p_value: float) -> None:
    assert mcnemar_exact(one, other) == pytest.approx(p_value, abs=6e-7)
    assert mcnemar_exact(other, one) == mcnemar_exact(one, other)


@pytest.mark.parametrize(("one", "other", "p_value"), [(0, 0, 1.0), (1, 0, 1.0), (5, 0, 2 / 32), (0, 10, 2 / 1024)])
def test_few_rows_that_differ_are_counted_like_coins(one: int, other: int, p_value: float) -> None:
    assert mcnemar_exact(one, other) == pytest.approx(p_value, rel=1e-12)


def test_very_many_rows_that_differ_are_no_burden() -> None:
    # The normal distribution with a continuity correction: z = (1500 - 1) / sqrt(1e6).
    assert mcnemar_exact(500_750, 499_250) == pytest.approx(0.1339, abs=2e-4)
    assert mcnemar_exact(1_000_000, 0) == 0.0


def test_only_rows_that_one_of_two_models_gets_right_count() -> None:
    source = np.array([True, True, False, True, False, True])
    result = np.array([True, False, False, False, True, False])

    assert pair(source, result) == Paired(only_source=3, only_result=1, p_value=0.625)
