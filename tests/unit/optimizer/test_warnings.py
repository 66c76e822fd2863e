"""A pass that succeeded and made serving slower says so, in the report and in what the Job tells."""

from collections.abc import Callable
from typing import Any


def job(uris: dict[str, str], **quantize: Any) -> dict[str, Any]:
    passes = [{"convert": {}}, {"quantize": quantize}]
    return {"source": {"uri": uris["model"]}, "passes": passes, "evaluationData": uris["test"]}


def test_a_pass_for_speed_that_made_serving_slower_is_warned_of(
    digits: dict[str, str], run_job: Callable[..., Any]
) -> None:
    convert, quantize = run_job(job(digits, dtype="int2", blockSize=16)).result.passes

    assert convert.warning is None
    assert "times as long as before quantize: try another mode, dtype or blockSize" in quantize.warning


def test_a_pass_that_never_promised_speed_is_not_warned_of(digits: dict[str, str], run_job: Callable[..., Any]) -> None:
    assert run_job(job(digits, dtype="fp16")).result.passes[1].warning is None
