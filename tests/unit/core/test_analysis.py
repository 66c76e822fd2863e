"""The analysis: verdicts from the growth of counters, and no verdict where there is too little to judge by."""

import math
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab_api.spec import Analysis
from trimtab_operator.core.analysis import AnalysisState, analyse, quantile, read_state, write_state
from trimtab_operator.core.observed import Sample

NOW = datetime(2026, 1, 1, tzinfo=UTC)
STEP = Analysis.parse(
    {
        "durationSeconds": 60,
        "minRequests": 100,
        "metrics": [{"name": "errorRate", "max": 0.01}, {"name": "latencyP95Ms", "max": 20}],
    }
)
FAST = {0.01: 1.0, 0.02: 1.0, math.inf: 1.0}
SLOW = {0.01: 0.0, 0.02: 0.0, math.inf: 1.0}


def sample(requests: float, errors: float = 0, shares: dict[float, float] = FAST) -> Sample:
    return Sample(requests, errors, {bound: share * requests for bound, share in shares.items()})


def after(seconds: float, grown: Sample, before: Sample | None = None) -> AnalysisState:
    """Return the state so long after a step began, with counters that grew from `before`."""
    first = analyse(STEP, None, before or sample(0), NOW)
    found = analyse(STEP, first, grown, NOW + timedelta(seconds=seconds))
    assert found
    return found


def test_enough_good_requests_over_the_whole_time_pass() -> None:
    assert after(60, sample(100)).verdict is True


def test_good_requests_hold_until_the_time_is_over() -> None:
    assert after(59, sample(1000)).verdict is None


def test_too_few_requests_are_no_verdict_however_long_it_takes_and_however_bad_they_are() -> None:
    state = after(100_000, sample(99, errors=99))

    assert (state.verdict, state.message) == (None, "analysis: 99 of 100 requests")


def test_a_bad_figure_fails_as_soon_as_there_are_enough_requests() -> None:
    state = after(1, sample(100, errors=2))

    assert (state.verdict, state.message) == (False, "errorRate is 0.02, above the maximum 0.01")


def test_requests_slower_than_any_bucket_fail_a_limit_of_latency() -> None:
    assert after(60, sample(100, shares=SLOW)).verdict is False


def test_only_what_came_since_the_step_began_counts() -> None:
    before = sample(1000, errors=500)
    grown = Sample(1200, 500, {bound: 1200.0 for bound in FAST})

    state = after(60, grown, before)

    assert (state.requests, state.verdict) == (200, True)


def test_without_a_sample_the_state_stays_as_it_was() -> None:
    state = after(10, sample(50))

    assert analyse(STEP, state, None, NOW + timedelta(seconds=70)) == state


def test_counters_that_go_back_begin_the_time_anew() -> None:
    state = after(59, sample(500))

    later = NOW + timedelta(seconds=60)
    anew = analyse(STEP, AnalysisState(NOW, sample(500)), sample(20), later)

    assert state.verdict is None
    assert anew
    assert (anew.started_at, anew.verdict) == (later, None)


def test_a_state_that_was_written_to_status_reads_as_it_was() -> None:
    state = AnalysisState(NOW, sample(7, errors=3))

    assert read_state(write_state(state)) == state


@pytest.mark.parametrize("written", [None, {}, {"baseline": 3}, {"baseline": {"requests": "x"}, "startedAt": "never"}])
def test_a_state_that_cannot_be_read_begins_anew(written: dict[str, object] | None) -> None:
    assert read_state(written) is None


BOUNDS = (0.001, 0.01, 0.1, math.inf)


@given(st.lists(st.integers(0, 1000), min_size=4, max_size=4), st.floats(0.01, 0.99))
def test_a_quantile_lies_in_the_bucket_that_holds_its_rank(counts: list[int], share: float) -> None:
    total, buckets = 0, {}
    for bound, count in zip(BOUNDS, counts, strict=True):
        total += count
        buckets[bound] = float(total)

    found = quantile(buckets, share)

    if total == 0:
        assert math.isnan(found)
        return
    index = next(place for place, bound in enumerate(BOUNDS) if buckets[bound] >= share * total)
    lower = BOUNDS[index - 1] if index else 0.0
    assert lower <= found <= BOUNDS[index]


@pytest.mark.parametrize("buckets", [{}, {0.1: 0.0, math.inf: 0.0}])
def test_a_quantile_of_nothing_is_no_number(buckets: dict[float, float]) -> None:
    assert math.isnan(quantile(buckets, 0.95))
