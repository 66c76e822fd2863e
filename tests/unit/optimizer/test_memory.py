"""A pass that cannot fit is refused before it starts, with the estimate, the limit and the mend."""

from collections.abc import Callable
from typing import Any

import pytest

from trimtab_api.errors import InsufficientMemory
from trimtab_api.spec import Calibration, Convert, Distill, FineTune, OptimizationPass, Prune, Quantize, Target
from trimtab_optimizer import memory
from trimtab_optimizer.memory import check_memory, memory_limit
from trimtab_optimizer.package import Model
from trimtab_optimizer.passes import PASSES

STATIC = Quantize(mode="static", calibration=Calibration(uri="oci://a/b:v1"))


def test_an_estimate_above_the_limit_names_both_and_the_mend() -> None:
    with pytest.raises(InsufficientMemory, match=r"distill needs about 7\.49 GiB for weights of 1\.00 GiB, and 4\.00"):
        check_memory("distill", 1 << 30, 7.1, 4 << 30)
    with pytest.raises(InsufficientMemory, match=r"limits\.memory to 10Gi or more"):
        check_memory("distill", 1 << 30, 7.1, 4 << 30)


def test_what_fits_is_let_through() -> None:
    check_memory("distill", 1 << 20, 7.1, 4 << 30)


@pytest.mark.parametrize(
    ("item", "whole"),
    [
        (OptimizationPass(convert=Convert()), True),
        (OptimizationPass(distill=Distill(data="oci://a/b:v1")), True),
        (OptimizationPass(prune=Prune(amount=0.5)), True),
        (OptimizationPass(prune=Prune(structure="unstructured", amount=0.5)), False),
        (OptimizationPass(quantize=STATIC), True),
        (OptimizationPass(quantize=Quantize(dtype="int4")), False),
    ],
)
def test_only_passes_that_hold_the_model_grow_with_it(item: OptimizationPass, whole: bool, source: Model) -> None:
    assert (PASSES[item.kind].memory(item, source) > 0) is whole


def test_a_conversion_by_tensorflow_needs_what_its_process_takes_before_it_holds_any_weight() -> None:
    litert = OptimizationPass(convert=Convert(to=Target.LITERT))

    assert PASSES["convert"].beside(litert) == 1 << 30
    assert PASSES["convert"].beside(OptimizationPass(convert=Convert())) == 0
    with pytest.raises(InsufficientMemory, match=r"convert needs about 1\.39 GiB for weights of 0\.00 GiB"):
        check_memory("convert", 1 << 20, 4.2, 1 << 30, beside=PASSES["convert"].beside(litert))


def test_fine_tuning_needs_what_training_does(source: Model) -> None:
    tuned = OptimizationPass(prune=Prune(amount=0.5, fine_tune=FineTune(data="oci://a/b:v1")))
    plain = OptimizationPass(prune=Prune(amount=0.5))
    assert PASSES["prune"].memory(tuned, source) > PASSES["prune"].memory(plain, source)


def test_the_limit_of_the_container_counts_where_it_is_below_the_machines(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = memory_limit()
    (tmp_path / "memory.max").write_text("1000000\n")
    (tmp_path / "unlimited").write_text("max\n")
    monkeypatch.setattr(memory, "_LIMITS", (tmp_path / "memory.max", tmp_path / "unlimited", tmp_path / "absent"))
    assert memory_limit() == 1_000_000
    monkeypatch.setattr(memory, "_LIMITS", (tmp_path / "unlimited", tmp_path / "absent"))
    assert memory_limit() == pytest.approx(machine, rel=0.2)


def test_a_job_without_enough_memory_ends_before_the_pass_and_is_not_tried_again(
    digits: dict[str, str], run_job: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "memory_limit", lambda: 200 << 20)

    answer = run_job({"source": {"uri": digits["model"]}, "passes": [{"convert": {}}]})

    assert answer.code == 42
    assert answer.failure.reason == "InsufficientMemory"
