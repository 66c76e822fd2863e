"""What the operator reads of a pod's own metrics."""

import pytest

from trimtab_operator.core.observed import Batching
from trimtab_operator.probes.metrics import parse_batching


@pytest.mark.parametrize(
    ("difference", "safe", "expected"),
    [
        ("0.0", "1.0", Batching("a", 32, True, 0.0)),
        ("0.013", "0.0", Batching("a", 32, False, 0.013)),
        ("+Inf", "0.0", Batching("a", 32, False, None)),
    ],
)
def test_how_a_server_batches_is_read_from_its_metrics(difference: str, safe: str, expected: Batching) -> None:
    text = (
        f"trimtab_batching_rows 32.0\ntrimtab_batching_difference {difference}\ntrimtab_batching_safe {safe}\n"
        'trimtab_requests_total{code="200"} 3.0\n'
    )
    assert parse_batching(text, "a") == expected


def test_a_server_of_an_older_version_tells_nothing() -> None:
    assert parse_batching('trimtab_requests_total{code="200"} 3.0\n', "a") is None
