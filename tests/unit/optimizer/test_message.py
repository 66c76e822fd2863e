"""A termination message holds 4096 bytes: what the operator decides by goes last."""

from typing import Any

import pytest

from trimtab_api.contract import canonical_json, digest_of
from trimtab_api.package import MOST_METRICS
from trimtab_api.report import (
    BUILT_IN_METRICS,
    TERMINATION_MESSAGE_LIMIT,
    MeasuredMetric,
    OptimizationResult,
    PassReport,
    Unoptimized,
)
from trimtab_optimizer.message import success

REPOSITORY = "registry.models.example.com:5000/optimized/trimtab/default"
FIGURES: dict[str, Any] = {
    "value": 0.123456,
    "source": 0.123456,
    "low": 0.123456,
    "high": 0.123456,
    "p_value": 1.234e-05,
}
NAMES = [*sorted(BUILT_IN_METRICS), *(f"{'m' * 39}{n}" for n in range(MOST_METRICS))]
METRICS = tuple(MeasuredMetric(name=name, **FIGURES) for name in NAMES)
WARNING = (
    "a row takes 1.3 times as long as before quantize: try another mode, dtype or blockSize, or leave the pass out"
)


def result(passes: int, uris: int = 3) -> OptimizationResult:
    made = PassReport(name="quantize", state="Succeeded", seconds=123.456, size_bytes=123456789, warning=WARNING)
    artifact = f"{REPOSITORY}@{digest_of('a')}"
    return OptimizationResult(
        artifact=artifact,
        plan=digest_of("p"),
        resolved={f"oci://{REPOSITORY}/data-{n}:v1": digest_of(n) for n in range(uris)},
        passes=(made,) * passes,
        metrics=METRICS,
        unoptimized=Unoptimized(artifact=artifact, size_bytes=123456789),
    )


@pytest.mark.parametrize("passes", [1, 4, 16, 32])
def test_every_figure_of_every_metric_fits_beside_any_number_of_passes(passes: int) -> None:
    message = success(result(passes))

    assert len(canonical_json(message.to_dict()).encode()) <= TERMINATION_MESSAGE_LIMIT
    assert message.result is not None
    assert [(item.name, item.value, item.source) for item in message.result.metrics] == [
        (name, 0.123456, 0.123456) for name in NAMES
    ]


def test_intervals_go_before_figures() -> None:
    message = success(result(passes=16, uris=10))

    assert message.result is not None
    assert message.result.passes == ()
    assert {(item.value, item.low, item.p_value) for item in message.result.metrics} == {(0.123456, None, None)}
    assert len(canonical_json(message.to_dict()).encode()) <= TERMINATION_MESSAGE_LIMIT
