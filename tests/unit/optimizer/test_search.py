"""search: variants are tried until one is good enough, what they share is run once, and the report shows them all."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from trimtab_api.plan import Plan
from trimtab_api.spec import Convert, OptimizationPass
from trimtab_optimizer.package import load_package
from trimtab_optimizer.passes.convert import convert

Job = Callable[..., Any]

CONVERT: dict[str, Any] = {"convert": {"to": "onnx"}}
INT8: dict[str, Any] = {"name": "int8", "quantize": {"dtype": "int8", "mode": "dynamic"}}
INT4: dict[str, Any] = {"name": "int4", "quantize": {"dtype": "int4"}}
TINY: dict[str, Any] = {"name": "tiny", "prune": {"structure": "unstructured", "amount": 0.97}}
ZEROS: dict[str, Any] = {"name": "zeros", "prune": {"structure": "unstructured", "amount": 0.3}}
BROKEN: dict[str, Any] = {"name": "broken", "prune": {"amount": 0.01, "roundTo": 128}}


def plan(
    digits: dict[str, str], passes: list[dict[str, Any]], search: dict[str, Any], **limits: float
) -> dict[str, Any]:
    return {
        "source": {"uri": digits["model"]},
        "passes": passes,
        "search": search,
        "gate": [{"name": "accuracy", "maxDrop": 0.02}, {"name": "sizeBytes", "maxRatio": limits.get("size", 1.0)}],
        "evaluationData": digits["test"],
    }


@pytest.fixture
def report(directory_store: Any, tmp_path: Path) -> Callable[[Any], Any]:
    def read(result: Any) -> Any:
        folder = tmp_path / "artifact"
        directory_store.pull(f"oci://{result.artifact}", folder)
        return yaml.safe_load((folder / "report.json").read_text())

    return read


def test_the_first_variant_that_passes_is_taken(
    digits: dict[str, str], run_job: Job, report: Callable[..., Any]
) -> None:
    order = {"tryInOrder": [["tiny"], ["int8"], ["int4"]]}

    result = run_job(plan(digits, [CONVERT, TINY, INT8, INT4], order)).result

    assert [item.name for item in result.passes] == ["convert", "quantize"]
    assert result.search == "int8: the first that passed (2 tried, 1 passed)"
    variants = report(result)["variants"]
    assert [(item["passes"], item["passed"], item["taken"]) for item in variants] == [
        (["tiny"], False, False),
        (["int8"], True, True),
    ]
    assert "accuracy fell by" in variants[0]["missed"]


def test_where_none_passes_the_last_is_left_for_the_gate_to_block(digits: dict[str, str], run_job: Job) -> None:
    result = run_job(plan(digits, [CONVERT, TINY, INT8], {"tryInOrder": [["int8"], ["tiny"]]}, size=0.01)).result

    assert result.search == "tiny: none passed (2 tried, 0 passed)"


def test_auto_takes_the_smallest_of_all_that_pass(
    digits: dict[str, str], run_job: Job, report: Callable[..., Any]
) -> None:
    result = run_job(plan(digits, [CONVERT, ZEROS, INT8, INT4], {"auto": {"objective": "smallest"}})).result

    assert result.search.startswith("zeros + int4") or result.search.startswith("int4")
    variants = report(result)["variants"]
    sizes = {tuple(item["passes"]): item["metrics"]["sizeBytes"] for item in variants if item.get("passed")}
    assert sizes[tuple(next(item for item in variants if item.get("taken"))["passes"])] == min(sizes.values())
    assert {("zeros",), ("int8",), ("int4",)} <= {tuple(item["passes"]) for item in variants}
    assert ("int8", "int4") not in sizes  # two of one kind
    assert any(item["onFront"] for item in variants)


def test_auto_tries_no_more_than_it_may_and_goes_on_after_a_variant_that_cannot_be_made(
    digits: dict[str, str], run_job: Job, report: Callable[..., Any]
) -> None:
    result = run_job(plan(digits, [BROKEN, CONVERT, INT8, INT4], {"auto": {"maxTrials": 2}})).result

    variants = report(result)["variants"]
    assert [item["passes"] for item in variants] == [["int8"], ["broken"]]
    assert "raise amount, or lower roundTo" in variants[1]["failed"]


def test_a_variant_whose_passes_cannot_follow_each_other_is_refused_before_any_is_tried(
    digits: dict[str, str], run_job: Job
) -> None:
    answer = run_job(plan(digits, [CONVERT, INT8, INT4], {"tryInOrder": [["int8"], ["int8", "int4"]]}))

    assert answer.code == 42
    assert "variant int8 + int4: pass 3 (quantize) cannot follow pass 2 (quantize)" in answer.failure.message


def test_an_onnx_source_as_it_is_may_be_a_variant_and_stays_there_for_the_next(
    digits: dict[str, str],
    digits_build: Path,
    run_job: Job,
    work: Callable[..., Any],
    publish: Callable[[Path, str], str],
) -> None:
    item = OptimizationPass(convert=Convert())
    made = convert(item, load_package(digits_build / "model"), work("onnx")).model
    wanted = plan(digits, [ZEROS, INT8], {"tryInOrder": [[], ["zeros"], ["int8"]]}, size=0.5)
    wanted["source"] = {"uri": publish(made.folder, "models/digits-onnx"), "format": "onnx"}

    result = run_job(wanted).result

    assert result.search == "int8: the first that passed (3 tried, 1 passed)"


def test_a_search_that_was_done_before_runs_nothing(digits: dict[str, str], run_job: Job) -> None:
    wanted = plan(digits, [CONVERT, INT8], {"tryInOrder": [["int8"]]})
    first = run_job(wanted).result

    again = run_job(wanted).result

    assert again.reused
    assert again.artifact == first.artifact
    assert again.search == first.search


def test_names_and_limits_are_part_of_what_a_search_finds_and_of_no_pass(digits: dict[str, str]) -> None:
    resolved = dict.fromkeys([digits["model"], digits["test"]], "sha256:1")
    one = Plan.parse(plan(digits, [CONVERT, INT8], {"tryInOrder": [["int8"]]}))
    other = Plan.parse(plan(digits, [CONVERT, INT8], {"tryInOrder": [["int8"]]}, size=0.5))
    plain = one.model_copy(update={"search": None, "gate": ()})

    assert one.key(resolved) != other.key(resolved)
    assert one.pass_key(2, resolved) == plain.pass_key(2, resolved)
