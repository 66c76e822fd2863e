"""A pass that succeeded and made serving slower says so, in the report and in what the Job tells."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from trimtab_api.errors import PassFailed
from trimtab_api.spec import NoEffect
from trimtab_optimizer.effects import with_effect
from trimtab_optimizer.report import PassRecord

SLOW: dict[str, Any] = {"dtype": "int2", "blockSize": 16}


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


def test_where_the_spec_says_so_it_fails_with_the_same_words(
    digits: dict[str, str], run_job: Callable[..., Any]
) -> None:
    answer = run_job({**job(digits, **SLOW), "onNoEffect": "Fail"})

    assert (answer.code, answer.failure.reason) == (42, "PassFailed")
    assert "times as long as before quantize: try another mode, dtype or blockSize" in answer.failure.message


def test_a_pass_that_failed_by_it_is_not_stored(digits: dict[str, str], run_job: Callable[..., Any]) -> None:
    run_job({**job(digits, **SLOW), "onNoEffect": "Fail"})

    states = [(item.name, item.state) for item in run_job(job(digits, **SLOW)).result.passes]

    assert states == [("convert", "Reused"), ("quantize", "Succeeded")]


def test_a_stored_pass_keeps_its_warning_and_fails_where_that_is_wanted(
    digits: dict[str, str], run_job: Callable[..., Any]
) -> None:
    first = run_job(job(digits, **SLOW)).result.passes[1]

    reused = run_job({**job(digits, **SLOW), "evaluationData": digits["train"]}).result.passes[1]
    failed = run_job({**job(digits, **SLOW), "onNoEffect": "Fail"}).failure

    assert (reused.state, reused.warning) == ("Reused", first.warning)
    assert failed.message == first.warning


def test_a_pass_with_its_effect_passes_where_an_effect_is_wanted(
    digits: dict[str, str], run_job: Callable[..., Any], report_of: Callable[[Any], Any]
) -> None:
    answer = run_job({**job(digits, dtype="fp16"), "onNoEffect": "Fail"})

    assert report_of(answer)["plan"]["onNoEffect"] == "Fail"


@pytest.mark.parametrize(("size", "warned"), [(99, False), (100, True), (101, True)])
def test_a_pass_for_storage_has_to_make_the_model_smaller(size: int, warned: bool) -> None:
    record = PassRecord.parse(
        {
            "name": "prune",
            "state": "Succeeded",
            "parameters": {},
            "seconds": 1,
            "sizeBytes": size,
            "sizeBytesBefore": 100,
            "seed": 0,
            "notes": {"gain": "storage"},
        }
    )
    model: Any = None
    lax, strict = (SimpleNamespace(plan=SimpleNamespace(on_no_effect=wanted)) for wanted in NoEffect)

    assert bool(with_effect(lax, record, model, model).warning) is warned
    if warned:
        with pytest.raises(PassFailed, match=f"the model became no smaller, 100 bytes before prune, {size} after"):
            with_effect(strict, record, model, model)
