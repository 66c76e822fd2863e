"""Passes over a model too large to be held share one reading of its weights, and give what they give one by one."""

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import yaml
from onnx import numpy_helper
from safetensors.torch import load_file, save_file

from trimtab_api.spec import OptimizationPass
from trimtab_optimizer import chains
from trimtab_optimizer.chains import run_chain
from trimtab_optimizer.importers import empty
from trimtab_optimizer.package import Model, load_package
from trimtab_optimizer.passes.clip import clip
from trimtab_optimizer.passes.contract import Workplace
from trimtab_optimizer.streaming import carrying, magnitudes, weights
from trimtab_testing.graphs import chain, tensor_beside

CLIP: dict[str, Any] = {"clip": {"percentile": 97}}
PRUNE: dict[str, Any] = {"prune": {"structure": "unstructured", "amount": 0.4}}
EVERYWHERE: dict[str, Any] = {"prune": {"structure": "unstructured", "amount": 0.4, "scope": "global"}}
BY_CHANCE: dict[str, Any] = {"prune": {"structure": "unstructured", "amount": 0.4, "method": "random"}}
CONVERT: dict[str, Any] = {"convert": {}}
INT4: dict[str, Any] = {"quantize": {"dtype": "int4"}}
INT8: dict[str, Any] = {"quantize": {}}
FP8: dict[str, Any] = {"quantize": {"dtype": "fp8e4m3"}}

RunJob = Callable[..., Any]
Passes = list[dict[str, Any]]


@pytest.fixture(autouse=True)
def everything_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a module of any size be one that is too large."""
    monkeypatch.setattr(empty, "LARGEST_HELD", 0)


@pytest.fixture
def half(digits_build: Path, publish: Any, tmp_path: Path) -> str:
    """The digits model in bfloat16, as checkpoints are."""
    folder = tmp_path / "half"
    folder.mkdir()
    for file in (digits_build / "model").iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    values = load_file(folder / "model.safetensors")
    halves = {name: item.bfloat16() if item.is_floating_point() else item for name, item in values.items()}
    save_file(halves, folder / "model.safetensors")
    return str(publish(folder, "models/half"))


@pytest.fixture
def served(directory_store: Any, tmp_path: Path) -> Callable[[Any], Model]:
    """Return the artifact of an answer."""

    def read(answer: Any) -> Model:
        assert answer.code == 0, answer.failure
        folder = tmp_path / f"artifact-{time.monotonic_ns()}"
        directory_store.pull(f"oci://{answer.result.artifact}", folder)
        return load_package(folder)

    return read


def states(answer: Any) -> list[str]:
    return [f"{item.name} {item.state}" for item in answer.result.passes]


def tensors(model: Model) -> dict[str, np.ndarray[Any, Any]]:
    """Return all constants of a graph; without the prefix of made names, of which there are more one by one."""
    graph = onnx.load(model.weights).graph
    return {item.name.split(".", 1)[-1]: numpy_helper.to_array(item) for item in graph.initializer}


def assert_alike(one: Model, other: Model) -> None:
    expected, found = tensors(one), tensors(other)
    assert expected.keys() == found.keys()
    assert all(np.array_equal(expected[name], found[name]) for name in expected)
    assert one.package == other.package


CHAINS: dict[str, Passes] = {
    "clip and int8": [CONVERT, CLIP, INT8],
    "clip, prune and int4": [CONVERT, CLIP, PRUNE, INT4],
    "prune everywhere and fp8": [CONVERT, CLIP, EVERYWHERE, FP8],
    "prune by chance and int4": [CONVERT, BY_CHANCE, INT4],
    "clip and prune": [CONVERT, CLIP, PRUNE],
    "clip of a module": [CLIP, CONVERT, INT8],
    "clip and prune of a module": [CLIP, PRUNE, CONVERT, INT4],
    "before and after the conversion": [EVERYWHERE, CONVERT, CLIP, INT4],
    "by chance of a module": [BY_CHANCE, CONVERT, INT8],
}


@pytest.mark.parametrize("name", CHAINS)
def test_passes_together_give_what_they_give_one_by_one(
    name: str, digits: dict[str, str], half: str, run_job: RunJob, served: Any
) -> None:
    plan = {"source": {"uri": digits["model"] if CHAINS[name][0] == CONVERT else half}}
    passes = CHAINS[name]
    together = run_job({**plan, "passes": passes}, TRIMTAB_ARTIFACT_REPOSITORY="registry.local:5000/trimtab/together")

    for count in range(1, len(passes) + 1):
        unserved = [] if CONVERT in passes[:count] else [CONVERT]
        one_by_one = run_job({**plan, "passes": passes[:count] + unserved})

    assert_alike(served(one_by_one), served(together))


def test_with_only_the_last_pass_edited_only_that_one_runs_on_what_the_first_ones_left(
    digits: dict[str, str], run_job: RunJob, served: Any
) -> None:
    plan = {"source": {"uri": digits["model"]}}
    run_job({**plan, "passes": [CONVERT, CLIP, PRUNE, INT4]})

    edited = run_job({**plan, "passes": [CONVERT, CLIP, PRUNE, INT8]})

    assert states(edited) == ["convert Reused", "clip Reused", "prune Reused", "quantize Succeeded"]
    anew = run_job(
        {**plan, "passes": [CONVERT, CLIP, PRUNE, INT8]},
        TRIMTAB_ARTIFACT_REPOSITORY="registry.local:5000/trimtab/anew",
    )
    assert_alike(served(anew), served(edited))


@pytest.mark.parametrize("is_calibrated", [False, True])
def test_weights_that_wait_are_written_where_no_pass_reads_them_so(
    is_calibrated: bool, digits: dict[str, str], run_job: RunJob, served: Any
) -> None:
    static = {"quantize": {"mode": "static", "calibration": {"uri": digits["train"], "samples": 32}}}
    passes = [CONVERT, CLIP, PRUNE, *([static] if is_calibrated else [])]
    plan = {"source": {"uri": digits["model"]}}
    run_job({**plan, "passes": [CONVERT, CLIP, PRUNE, INT4]})

    found = run_job({**plan, "passes": passes})

    assert states(found)[:3] == ["convert Reused", "clip Reused", "prune Reused"]
    repository = "registry.local:5000/trimtab/anew"
    for count in range(1, len(passes) + 1):
        anew = run_job({**plan, "passes": passes[:count]}, TRIMTAB_ARTIFACT_REPOSITORY=repository)
    assert_alike(served(anew), served(found))


def test_the_report_says_what_was_read_together_and_why_it_has_no_figures_of_its_own(
    digits: dict[str, str], run_job: RunJob, report_of: Any
) -> None:
    passes = [CONVERT, CLIP, PRUNE, INT4]

    records = report_of(run_job({"source": {"uri": digits["model"]}, "passes": passes}))["passes"]

    clip, prune, quantize = records[1:]
    assert clip["notes"]["readWith"] == "quantize"
    assert prune["notes"]["zeros"] == pytest.approx(0.4 * prune["notes"]["values"], rel=0.01)
    assert prune["sizeBytes"] < clip["sizeBytes"] == clip["sizeBytesBefore"]
    assert "written with those of a later pass" in prune["absent"]["memoryBytes"]
    assert quantize["seconds"] > 0
    assert "latencyP95Ms" in quantize["metrics"]


def test_with_evaluation_data_each_pass_is_written_and_measured(
    digits: dict[str, str], run_job: RunJob, report_of: Any
) -> None:
    plan = {"source": {"uri": digits["model"]}, "evaluationData": digits["test"]}

    records = report_of(run_job({**plan, "passes": [CONVERT, CLIP, PRUNE, INT8]}))["passes"]

    assert all("accuracy" in record["metrics"] for record in records)
    assert not any("readWith" in record["notes"] for record in records)


def test_a_result_between_two_passes_is_no_source(
    digits: dict[str, str], run_job: RunJob, registry_dir: Path, directory_store: Any
) -> None:
    run_job({"source": {"uri": digits["model"]}, "passes": [CONVERT, CLIP, INT4]})
    index = (registry_dir / "registry.local:5000/trimtab/default/index.json").read_text()
    digests = {item["digest"] for item in json.loads(index)["manifests"]}
    sources = [f"oci://registry.local:5000/trimtab/default@{digest}" for digest in sorted(digests)]

    answers = [run_job({"source": {"uri": uri, "format": "onnx"}, "passes": [INT8]}) for uri in sources]

    refused = [item.failure for item in answers if item.failure and "edits" in item.failure.message]
    assert [item.reason for item in refused] == ["InvalidPackage"]


def test_weights_are_read_one_after_the_other_and_never_come_back(
    tmp_path: Path, work: Callable[..., Workplace], monkeypatch: pytest.MonkeyPatch
) -> None:
    side, count = 512, 12
    source = graph_package(tmp_path, side, count)
    offsets: list[int] = []
    read = os.preadv

    def noting(descriptor: int, buffers: Any, offset: int) -> int:
        offsets.append(offset // (side * side * 4))
        return read(descriptor, buffers, offset)

    monkeypatch.setattr(weights.os, "preadv", noting)
    run_chain(items(CLIP, PRUNE, INT4), source, [work("clip"), work("prune"), work("quantize")])

    spans = [(offsets.index(number), len(offsets) - offsets[::-1].index(number)) for number in range(count)]
    open_at_once = [sum(start <= moment < end for start, end in spans) for moment in range(len(offsets))]
    assert max(open_at_once) <= 2  # one for each thread


def test_what_one_chain_found_is_not_taken_for_what_another_looks_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = graph_package(tmp_path, 256, 3)
    whole = chain_in(source.folder, tmp_path / "whole", CLIP, PRUNE, INT4)
    with monkeypatch.context() as patch:
        patch.setattr(chains._Link, "outcome", die)  # all was found by then, and nothing is told
        with pytest.raises(KeyboardInterrupt):
            chain_in(source.folder, tmp_path / "killed", CLIP, PRUNE, INT4)
    assert list((tmp_path / "killed/unfinished").glob("*.journal"))
    clipped = clip(items(CLIP)[0], source, workplace(source, tmp_path / "clipped", "clip")).model

    killed = chain_in(clipped.folder, tmp_path / "killed", PRUNE, INT4)

    assert_alike(whole, killed)


def die(*_: object) -> None:
    raise KeyboardInterrupt


def test_sizes_of_results_in_between_know_what_was_pruned_before(
    tmp_path: Path, work: Callable[..., Workplace]
) -> None:
    source = graph_package(tmp_path, 256, 3)
    one = {"prune": {"structure": "unstructured", "amount": 0.8, "ignoredLayers": ["w1", "w2"]}}
    other = {"prune": {"structure": "unstructured", "amount": 0.3, "ignoredLayers": ["w0", "w2"]}}

    done = run_chain(items(one, other, CLIP, INT4), source, [work(name) for name in ("one", "two", "clip", "quantize")])

    sizes = [source.size_bytes(), *(outcome.model.size_bytes() for outcome in done)]
    assert sizes[0] > sizes[1] > sizes[2] == sizes[3] > sizes[4]


def test_there_are_few_threads_on_many_cores(
    tmp_path: Path, work: Callable[..., Workplace], monkeypatch: pytest.MonkeyPatch
) -> None:
    source, cores, most = graph_package(tmp_path, 512, 24), 8, 0
    for module in (carrying, magnitudes):
        monkeypatch.setattr(module, "thread_count", lambda: cores)
    read = os.preadv

    def noting(*arguments: Any) -> int:
        nonlocal most
        most = max(most, threading.active_count())
        return read(*arguments)

    before = threading.active_count()
    monkeypatch.setattr(weights.os, "preadv", noting)
    run_chain(items(CLIP, PRUNE, INT4), source, [work(name) for name in ("clip", "prune", "quantize")])

    assert 0 < most - before <= 2 * cores


def graph_package(folder: Path, side: int, count: int) -> Model:
    """Write a package of square matrices, one after the other in one file."""
    made = folder / "source"
    made.mkdir()
    values = np.random.default_rng(0).standard_normal((count, side, side), np.float32)
    values.tofile(made / "weights.bin")
    chain(made / "model.onnx", [tensor_beside(f"w{n}", (side, side), n * side * side * 4) for n in range(count)])
    ends = [{"name": name, "datatype": "FP32", "shape": [-1, side]} for name in ("x", "y")]
    manifest = {"name": "chain", "format": "onnx", "weights": "model.onnx", "inputs": ends[:1], "outputs": ends[1:]}
    (made / "model.yaml").write_text(yaml.safe_dump(manifest))
    return load_package(made)


def items(*passes: dict[str, Any]) -> list[OptimizationPass]:
    return [OptimizationPass.parse(item) for item in passes]


WORKER = """
import sys
from pathlib import Path
from test_chains import chain_in
print("ready", flush=True)
chain_in(Path(sys.argv[1]), Path(sys.argv[2]))
"""


def chain_in(source: Path, folder: Path, *passes: dict[str, Any]) -> Model:
    """Run a chain whose results lie in a folder, and whose unfinished work does too."""
    attempt, model = folder / f"attempt-{time.monotonic_ns()}", load_package(source)
    chosen = passes or (CLIP, EVERYWHERE, INT4)
    works = [workplace(model, attempt, next(iter(item)), folder / "unfinished") for item in chosen]
    empty.LARGEST_HELD = 0  # type: ignore[misc]
    done = run_chain(items(*chosen), model, works)
    assert not list((folder / "unfinished").iterdir())
    return done[-1].model


def workplace(model: Model, folder: Path, name: str, unfinished: Path | None = None) -> Workplace:
    (folder / f"{name}-scratch").mkdir(parents=True)
    places = {"target": folder / name, "scratch": folder / f"{name}-scratch"}
    kept = unfinished / name if unfinished else None
    return Workplace(seed=0, allow_pickle=False, source=model, checkpoints=None, unfinished=kept, **places)  # type: ignore[arg-type]


def test_a_chain_that_is_killed_goes_on_and_ends_with_the_same_bytes(tmp_path: Path) -> None:
    source = graph_package(tmp_path, 2048, 24).folder
    start = time.monotonic()
    whole = chain_in(source, tmp_path / "whole")
    seconds, moments, kept = time.monotonic() - start, random.Random(3), 0
    for _ in range(6):
        process = subprocess.Popen(
            [sys.executable, "-c", WORKER, source, tmp_path / "killed"],
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])},
        )
        assert process.stdout
        process.stdout.readline()
        time.sleep(moments.uniform(0.3, 0.8) * seconds)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()
        journals = (tmp_path / "killed/unfinished").rglob("*.journal")
        kept = max(kept, sum(len(file.read_text().splitlines()) - 1 for file in journals))

    killed = chain_in(source, tmp_path / "killed")

    for file in whole.folder.iterdir():
        assert file.read_bytes() == (killed.folder / file.name).read_bytes()
    assert kept > 0
