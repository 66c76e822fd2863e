"""A pass that succeeded and did not help says so, in the report and in what the Job tells."""

import pytest

from trimtab_optimizer.evaluate import Figures
from trimtab_optimizer.progress import warning_of
from trimtab_optimizer.report import PassRecord


def record(gain: str) -> PassRecord:
    return PassRecord(
        name="quantize",
        state="Succeeded",
        parameters={},
        seconds=1,
        size_bytes=1,
        size_bytes_before=2,
        seed=0,
        notes={"gain": gain},
    )


def test_a_pass_for_speed_that_made_serving_slower_is_warned_of_with_both_figures() -> None:
    found = warning_of(record("speed"), Figures(9, 0.1), Figures(5, 0.4))

    assert found == (
        "latencyP95Ms rose from 0.1 to 0.4 ms: this model serves no faster after quantize; "
        "try another mode or dtype, or leave it out"
    )


@pytest.mark.parametrize(("gain", "after"), [("speed", 0.05), ("speed", 0.105), ("storage", 0.4)])
def test_what_is_faster_or_as_fast_or_never_promised_speed_is_not_warned_of(gain: str, after: float) -> None:
    assert warning_of(record(gain), Figures(9, 0.1), Figures(5, after)) is None
