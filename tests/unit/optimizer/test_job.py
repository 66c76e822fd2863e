"""The Job as a whole: what it publishes, what it makes again and what not, and how it answers."""

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from trimtab_api.group import ANNOTATION_RESULT
from trimtab_api.plan import tag_of
from trimtab_api.report import TERMINATION_MESSAGE_LIMIT, JobMessage
from trimtab_optimizer.config import read_config
from trimtab_optimizer.known import resolve
from trimtab_optimizer.message import failure, success
from trimtab_optimizer.package import load_package
from trimtab_optimizer.predict import predictor_of
from trimtab_optimizer.store import open_store

ARTIFACTS = "registry.local:5000/trimtab/default"
Uris = dict[str, str]
RunJob = Callable[..., Any]


def _plan(uris: Uris, mode: str = "static", **changes: Any) -> dict[str, Any]:
    quantize: dict[str, Any] = {"mode": mode}
    if mode == "static":
        quantize["calibration"] = {"uri": uris["train"], "samples": 128}
    passes = [{"convert": {}}, {"quantize": quantize}]
    return {"source": {"uri": uris["model"]}, "passes": passes, "evaluationData": uris["test"], **changes}


def _states(answer: Any) -> list[tuple[str, str]]:
    return [(item.name, item.state) for item in answer.result.passes]


def test_an_artifact_holds_the_model_its_manifest_and_its_report(
    digits: Uris, run_job: RunJob, directory_store: Any, tmp_path: Path
) -> None:
    answer = run_job(_plan(digits))

    assert answer.code == 0
    directory_store.pull(f"oci://{answer.result.artifact}", tmp_path / "artifact")
    assert sorted(path.name for path in (tmp_path / "artifact").iterdir()) == [
        "SHA256SUMS",
        "model.onnx",
        "model.yaml",
        "report.json",
    ]
    model = load_package(tmp_path / "artifact")
    assert (model.package.format, model.package.labels) == ("onnx", tuple("0123456789"))
    assert predictor_of(model, False).predict({"pixels": np.zeros((3, 64), np.float32)})[0].shape == (3, 10)
    report = json.loads((tmp_path / "artifact" / "report.json").read_text())
    assert [item["name"] for item in report["passes"]] == ["convert", "quantize"]
    assert report["passes"][1]["sizeBytes"] < report["passes"][1]["sizeBytesBefore"]
    assert {"accuracy", "latencyP95Ms", "sizeBytes"} <= set(report["passes"][0]["metrics"])
    assert {"torch", "onnx", "onnxruntime"} <= set(report["tools"])
    assert report["resolved"] == answer.result.resolved


@pytest.mark.parametrize("taken", ["artifact", "unoptimized"])
def test_an_artifact_has_the_digests_of_its_files_for_who_loads_it(
    digits: Uris, run_job: RunJob, directory_store: Any, tmp_path: Path, taken: str
) -> None:
    result = run_job(_plan(digits, keepUnoptimized=True)).result
    image = result.artifact if taken == "artifact" else result.unoptimized.artifact
    directory_store.pull(f"oci://{image}", tmp_path / "artifact")
    check = subprocess.run(["sha256sum", "-c", "SHA256SUMS"], cwd=tmp_path / "artifact", capture_output=True, text=True)
    assert check.returncode == 0, check.stderr
    checked = {line.partition(":")[0] for line in check.stdout.splitlines()}
    assert checked == {path.name for path in (tmp_path / "artifact").iterdir()} - {"SHA256SUMS"}


def test_an_artifact_can_be_a_source_and_its_report_is_not_taken_along(
    digits_build: Path, run_job: RunJob, publish: Any, directory_store: Any, tmp_path: Path
) -> None:
    convert = run_job({"source": {"uri": publish(digits_build / "model", "models/plain")}, "passes": [{"convert": {}}]})
    source = {"uri": f"oci://{convert.result.artifact}", "format": "onnx"}

    answer = run_job({"source": source, "passes": []}, TRIMTAB_SCRATCH=str(tmp_path / "other"))

    assert answer.code == 0, answer.failure
    directory_store.pull(f"oci://{answer.result.artifact}", tmp_path / "artifact")
    report = json.loads((tmp_path / "artifact" / "report.json").read_text())
    assert report["plan"]["source"]["uri"] == source["uri"]


def test_figures_stand_beside_those_of_the_source(digits: Uris, run_job: RunJob) -> None:
    metrics = {item.name: item for item in run_job(_plan(digits)).result.metrics}

    assert set(metrics) == {"accuracy", "agreement", "latencyP95Ms", "sizeBytes"}
    assert metrics["accuracy"].value >= metrics["accuracy"].source - 0.01
    assert metrics["sizeBytes"].value < 0.35 * metrics["sizeBytes"].source
    assert metrics["agreement"].source == 1.0
    assert metrics["latencyP95Ms"].source > 0


def test_a_known_plan_runs_nothing(digits: Uris, run_job: RunJob, registry_dir: Path) -> None:
    first = run_job(_plan(digits))
    before = sorted(registry_dir.rglob("*"))

    second = run_job(_plan(digits), TRIMTAB_SCRATCH=str(registry_dir.parent / "second"))

    assert second.result == first.result.model_copy(update={"reused": True})
    assert sorted(registry_dir.rglob("*")) == before
    assert not list((registry_dir.parent / "second").iterdir())


def test_the_operator_finds_the_result_at_the_plan_tag(digits: Uris, run_job: RunJob, directory_store: Any) -> None:
    answer = run_job(_plan(digits))

    _, annotations = directory_store.find(ARTIFACTS, tag_of(answer.result.plan, "plan"))

    assert json.loads(annotations[ANNOTATION_RESULT]) == answer.result.to_dict()


def test_an_edit_of_the_last_pass_runs_that_pass_only(digits: Uris, run_job: RunJob) -> None:
    run_job(_plan(digits, mode="static"))

    answer = run_job(_plan(digits, mode="dynamic"))

    assert _states(answer) == [("convert", "Reused"), ("quantize", "Succeeded")]


def test_other_weights_are_another_plan(
    digits: Uris, digits_build: Path, run_job: RunJob, publish: Any, tmp_path: Path
) -> None:
    first = run_job(_plan(digits))
    changed = tmp_path / "changed"
    changed.mkdir()
    for path in (digits_build / "model").iterdir():
        (changed / path.name).write_bytes(path.read_bytes())
    weights = load_file(changed / "model.safetensors")
    name = next(iter(weights))
    save_file(weights | {name: weights[name] + torch.finfo(torch.float32).eps}, changed / "model.safetensors")

    publish(changed, "models/digits")  # the same tag moves to the other weights
    second = run_job(_plan(digits))

    assert second.result.plan != first.result.plan
    assert _states(second) == [("convert", "Succeeded"), ("quantize", "Succeeded")]


def test_other_evaluation_data_measures_again_and_runs_no_pass(digits: Uris, run_job: RunJob) -> None:
    first = run_job(_plan(digits))

    second = run_job(_plan(digits, evaluationData=digits["train"]))

    assert second.result.plan != first.result.plan
    assert _states(second) == [("convert", "Reused"), ("quantize", "Reused")]


def test_a_killed_job_goes_on_after_the_last_finished_pass(
    digits: Uris, run_job: RunJob, environment: Callable[..., dict[str, str]]
) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "trimtab_optimizer"], env=environment(_plan(digits)), stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    for line in process.stderr:
        if '"message": "pass finished"' in line:
            process.send_signal(signal.SIGKILL)
            break
    process.communicate()

    answer = run_job(_plan(digits))

    assert process.returncode == -signal.SIGKILL
    assert not answer.result.reused
    assert _states(answer)[0] == ("convert", "Reused")


def test_the_unoptimized_model_is_published_for_those_who_want_it(
    attention: Uris, run_job: RunJob, directory_store: Any, tmp_path: Path
) -> None:
    answer = run_job(_plan(attention, mode="dynamic", keepUnoptimized=True))

    unoptimized = answer.result.unoptimized
    directory_store.pull(f"oci://{unoptimized.artifact}", tmp_path / "plain")
    model = load_package(tmp_path / "plain")
    assert model.size_bytes() == unoptimized.size_bytes > 2 * answer.result.passes[1].size_bytes
    assert predictor_of(model, False).predict({"measurements": np.zeros((2, 30), np.float32)})[0].shape == (2, 2)


def test_an_onnx_source_is_served_as_it_is(
    digits: Uris, run_job: RunJob, directory_store: Any, publish: Any, tmp_path: Path
) -> None:
    converted = run_job({**_plan(digits), "passes": [{"convert": {}}]})
    directory_store.pull(f"oci://{converted.result.artifact}", tmp_path / "onnx")
    (tmp_path / "onnx" / "report.json").unlink()
    source = {"uri": publish(tmp_path / "onnx", "models/onnx"), "format": "onnx"}

    answer = run_job({"source": source, "passes": [], "evaluationData": digits["test"]})

    metrics = {item.name: item for item in answer.result.metrics}
    assert answer.code == 0
    assert metrics["agreement"].value == 1.0
    assert metrics["sizeBytes"].value == metrics["sizeBytes"].source


def test_without_evaluation_data_accuracy_is_absent_with_a_note(
    digits: Uris, run_job: RunJob, directory_store: Any, tmp_path: Path
) -> None:
    plan = _plan(digits, mode="dynamic")
    del plan["evaluationData"]

    answer = run_job(plan)

    metrics = {item.name: item.value for item in answer.result.metrics}
    assert (metrics["accuracy"], metrics["agreement"]) == (None, None)
    assert metrics["latencyP95Ms"] > 0
    directory_store.pull(f"oci://{answer.result.artifact}", tmp_path / "artifact")
    noted = {
        item["name"]: item.get("note")
        for item in json.loads((tmp_path / "artifact/report.json").read_text())["metrics"]
    }
    assert noted["accuracy"] == "no evaluation data: set spec.evaluation.data"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"TRIMTAB_PLAN": "{"}, "InvalidSpec"),
        ({"TRIMTAB_PLAN": '{"source": {"uri": "s3://b/m"}, "passes": []}'}, "InvalidSpec"),
        ({"TRIMTAB_PLAN": '{"source": {}}'}, "InvalidSpec"),
        ({"TRIMTAB_ARTIFACT_REPOSITORY": ""}, "InvalidSpec"),
        ({"TRIMTAB_PLAN": '{"source": {"uri": "oci://registry.local:5000/a"}, "passes": []}'}, "SourceNotFound"),
    ],
)
def test_what_the_user_has_to_mend_ends_the_job_for_good(
    digits: Uris, run_job: RunJob, changes: dict[str, str], reason: str
) -> None:
    answer = run_job(_plan(digits), **changes)

    assert (answer.code, answer.failure.reason) == (42, reason)


def test_bad_data_fails_before_the_first_pass(
    digits: Uris, run_job: RunJob, publish: Any, data_package: Callable[..., Path], registry_dir: Path
) -> None:
    answer = run_job(_plan(digits, evaluationData=publish(data_package(), "data/wrong")))

    assert (answer.code, answer.failure.reason) == (42, "InvalidData")
    assert "no array `pixels` (found: label, x)" in answer.failure.message
    assert not (registry_dir / ARTIFACTS).exists()


def test_a_registry_that_is_down_may_be_tried_again(
    digits: Uris, environment: Callable[..., dict[str, str]], unused_tcp_port: int
) -> None:
    from trimtab_optimizer.__main__ import attempt

    host = f"127.0.0.1:{unused_tcp_port}"
    settings = environment({"source": {"uri": f"oci://{host}/models/a"}, "passes": []})
    del settings["TRIMTAB_REGISTRY_DIR"]

    message, code = attempt(settings | {"TRIMTAB_INSECURE_REGISTRIES": host})

    assert code == 1
    assert message.failure is not None
    assert message.failure.reason == "RegistryUnavailable"


def test_memory_that_runs_out_is_told_apart(
    linear_package: Any, data_package: Any, publish: Any, run_job: RunJob
) -> None:
    code = "import torch\n\n\ndef build():\n    return torch.empty(1 << 60)\n"
    plan = {"source": {"uri": publish(linear_package(code=code), "models/huge")}, "passes": [{"convert": {}}]}

    answer = run_job(plan)

    assert (answer.code, answer.failure.reason) == (1, "OutOfResources")
    assert "raise the memory limit in spec.optimization.resources" in answer.failure.message


def test_the_process_answers_by_file_and_exit_code(environment: Callable[..., dict[str, str]], tmp_path: Path) -> None:
    settings = environment({"source": {"uri": "oci://registry.local:5000/models/absent"}, "passes": []})

    ended = subprocess.run([sys.executable, "-m", "trimtab_optimizer"], env=settings, capture_output=True, check=False)

    message = JobMessage.parse(json.loads((tmp_path / "termination-log").read_text()))
    assert ended.returncode == 42
    assert ended.stdout == b""
    assert message.failure is not None
    assert message.failure.message.endswith("does not exist; push it there or mend the URI")


def test_a_container_that_was_killed_again_and_again_gives_up_and_says_what_to_raise(
    environment: Callable[..., dict[str, str]],
) -> None:
    from trimtab_optimizer.__main__ import attempt

    settings = environment({"source": {"uri": "oci://registry.local:5000/models/absent"}, "passes": []})

    messages = [attempt(settings | {"TRIMTAB_STARTS": "2"}) for _ in range(3)]

    reasons = [(code, message.failure.reason) for message, code in messages if message.failure]
    assert reasons == [(42, "SourceNotFound"), (42, "SourceNotFound"), (42, "OutOfMemory")]
    assert "spec.optimization.resources.limits.memory" in str(messages[-1][0].failure)


def test_a_long_text_is_cut_to_what_kubernetes_keeps() -> None:
    message = failure("InvalidPackage", "ä" * 9000)

    assert len(json.dumps(message.to_dict()).encode()) <= TERMINATION_MESSAGE_LIMIT + 8
    assert message.failure is not None
    assert message.failure.message.endswith(" [...]")


def test_a_long_result_keeps_what_the_operator_needs(digits: Uris, run_job: RunJob) -> None:
    result = run_job(_plan(digits)).result
    long = result.model_copy(update={"passes": result.passes * 60})

    message = success(long)

    assert message.result is not None
    assert (message.result.artifact, message.result.metrics) == (result.artifact, result.metrics)
    assert message.result.passes == ()


def test_a_plan_resolves_every_uri(
    digits: Uris, environment: Callable[..., dict[str, str]], directory_store: Any
) -> None:
    plan = read_config(environment(_plan(digits))).plan

    assert set(resolve(directory_store, plan)) == set(digits.values())


def test_a_result_whose_artifact_is_gone_is_made_again(digits: Uris, run_job: RunJob, registry_dir: Path) -> None:
    first = run_job(_plan(digits))
    blobs = registry_dir / ARTIFACTS / "blobs" / "sha256"
    (blobs / first.result.artifact.partition("@sha256:")[2]).unlink()

    second = run_job(_plan(digits))

    assert (second.code, second.result.reused) == (0, False)
    assert (blobs / second.result.artifact.partition("@sha256:")[2]).exists()


def test_a_damaged_pass_is_made_again(digits: Uris, run_job: RunJob, registry_dir: Path) -> None:
    plan = {**_plan(digits), "passes": [{"convert": {}}]}
    run_job(plan)
    for blob in (registry_dir / ARTIFACTS / "blobs" / "sha256").iterdir():
        if b"model.onnx" in blob.read_bytes()[:512]:
            blob.unlink()

    answer = run_job(_plan(digits, mode="dynamic"))

    assert _states(answer) == [("convert", "Succeeded"), ("quantize", "Succeeded")]


def test_a_job_over_a_private_registry_publishes_and_finds_again(
    private_registry: Any, linear_package: Any, data_package: Any, run_job: RunJob, tmp_path: Path
) -> None:
    host = private_registry.host
    (tmp_path / "config.json").write_text(
        json.dumps({"auths": {host: {"username": "trimtab", "password": "steersman"}}})
    )
    store = open_store((host,), (tmp_path,))
    store.push(linear_package(), f"{host}/models/linear", ("v1",), {})
    store.push(data_package(), f"{host}/data/linear", ("v1",), {})
    plan = {
        "source": {"uri": f"oci://{host}/models/linear:v1"},
        "passes": [{"convert": {}}],
        "evaluationData": f"oci://{host}/data/linear:v1",
    }
    settings = {
        "TRIMTAB_REGISTRY_DIR": "",
        "TRIMTAB_ARTIFACT_REPOSITORY": f"{host}/trimtab/default",
        "TRIMTAB_INSECURE_REGISTRIES": host,
        "TRIMTAB_DOCKER_CONFIGS": str(tmp_path),
    }

    first, second = (run_job(plan, **settings) for _ in range(2))

    assert (first.code, first.result.reused, second.result.reused) == (0, False, True)
    assert store.resolve(f"oci://{second.result.artifact}") == first.result.artifact.partition("@")[2]
