"""Trained examples (once a session), small packages made in a moment, registries, and the Job as a function."""

import json
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from trimtab_api.plan import Plan
from trimtab_api.report import JobFailure, OptimizationResult
from trimtab_testing.graphs import same_numbers_again

ROOT = Path(__file__).parents[3]
HOST = "registry.local:5000"
ARTIFACTS = f"{HOST}/trimtab/default"

LINEAR = "from torch import nn\n\n\ndef build():\n    return nn.Linear(4, 3)\n"
LINEAR_YAML: dict[str, Any] = {
    "name": "linear",
    "format": "pytorch",
    "entrypoint": "linear:build",
    "weights": "model.safetensors",
    "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 4]}],
    "outputs": [{"name": "y", "datatype": "FP32", "shape": [-1, 3]}],
}


def _train(example: str, out: Path) -> Path:
    script = ROOT / "examples" / example / "train.py"
    subprocess.run([sys.executable, script, "--out", out], check=True, capture_output=True)
    return out


@pytest.fixture(autouse=True)
def numbers() -> None:
    """The same random numbers in each test, whatever ran before it."""
    same_numbers_again()


@pytest.fixture(scope="session")
def digits_build(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The digits example, trained: model/, data-train/ and data-test/."""
    return _train("digits", tmp_path_factory.mktemp("digits"))


@pytest.fixture(scope="session")
def attention_build(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The attention example, trained: model/, data-train/ and data-test/."""
    return _train("attention", tmp_path_factory.mktemp("attention"))


@pytest.fixture(scope="session")
def counting_build(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The counting example, trained: model/, a Hugging Face folder, and data-test/."""
    return _train("counting", tmp_path_factory.mktemp("counting"))


@pytest.fixture
def source(digits_build: Path) -> Any:
    """The digits model; a file of tests may have another source."""
    from trimtab_optimizer.package import load_package

    return load_package(digits_build / "model")


@pytest.fixture
def train(digits_build: Path, source: Any) -> Any:
    """The rows to learn from, of the digits."""
    return _rows(digits_build / "data-train", source)


@pytest.fixture
def test(digits_build: Path, source: Any) -> Any:
    """The rows held out, of the digits."""
    return _rows(digits_build / "data-test", source)


def _rows(folder: Path, source: Any) -> Any:
    from trimtab_optimizer.data import load_data

    return load_data(folder, source.package, evaluation=True)


@pytest.fixture
def registry_dir(tmp_path: Path) -> Path:
    return tmp_path / "registries"


@pytest.fixture
def directory_store(registry_dir: Path) -> Any:
    from trimtab_optimizer.store import open_store

    return open_store(directory=registry_dir)


@pytest.fixture
def publish(directory_store: Any) -> Callable[[Path, str], str]:
    """Push a folder to the directory that plays the registry and return its URI."""

    def push(folder: Path, name: str, tag: str = "v1") -> str:
        directory_store.push(folder, f"{HOST}/{name}", (tag,), {})
        return f"oci://{HOST}/{name}:{tag}"

    return push


@pytest.fixture
def digits(digits_build: Path, publish: Callable[[Path, str], str]) -> dict[str, str]:
    """The digits example in the registry: URIs of `model`, `train` and `test`."""
    return {
        "model": publish(digits_build / "model", "models/digits"),
        "train": publish(digits_build / "data-train", "data/digits-train"),
        "test": publish(digits_build / "data-test", "data/digits-test"),
    }


@pytest.fixture
def attention(attention_build: Path, publish: Callable[[Path, str], str]) -> dict[str, str]:
    """The attention example in the registry: URIs of `model`, `train` and `test`."""
    return {
        "model": publish(attention_build / "model", "models/attention"),
        "train": publish(attention_build / "data-train", "data/attention-train"),
        "test": publish(attention_build / "data-test", "data/attention-test"),
    }


@pytest.fixture
def counting(counting_build: Path, publish: Callable[[Path, str], str]) -> dict[str, str]:
    """The counting example in the registry: URIs of `model` and `test`."""
    return {
        "model": publish(counting_build / "model", "models/counting"),
        "test": publish(counting_build / "data-test", "data/counting-test"),
    }


@dataclass(frozen=True)
class Answer:
    """What the Job answered."""

    code: int
    result: OptimizationResult | None
    failure: JobFailure | None


@pytest.fixture
def environment(registry_dir: Path, tmp_path: Path) -> Callable[[dict[str, Any]], dict[str, str]]:
    """Make the environment of a Job for a plan in its wire form."""

    def make(plan: dict[str, Any]) -> dict[str, str]:
        return {
            "TRIMTAB_PLAN": json.dumps(Plan.parse(plan).to_dict()),
            "TRIMTAB_ARTIFACT_REPOSITORY": ARTIFACTS,
            "TRIMTAB_SCRATCH": str(tmp_path / "scratch"),
            "TRIMTAB_RESULT_FILE": str(tmp_path / "termination-log"),
            "TRIMTAB_REGISTRY_DIR": str(registry_dir),
        }

    return make


@pytest.fixture
def run_job(
    environment: Callable[[dict[str, Any]], dict[str, str]], monkeypatch: pytest.MonkeyPatch
) -> Callable[[dict[str, Any]], Answer]:
    """Run the Job in this process, to save the seconds torch needs to start."""
    from trimtab_optimizer.__main__ import attempt

    monkeypatch.setattr(tempfile, "tempdir", tempfile.gettempdir())

    def run(plan: dict[str, Any], **changes: str) -> Answer:
        message, code = attempt(environment(plan) | changes)
        return Answer(code, message.result, message.failure)

    return run


class KeptCheckpoints:
    """Checkpoints in a folder, which can be told to die after a number of them, as a Job that is killed does."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.saved, self.dies_after = folder, 0, None

    saved: int
    dies_after: int | None

    def load(self) -> Path | None:
        return self.folder / "last" if (self.folder / "last").exists() else None

    def save(self, file: Path) -> None:
        self.folder.mkdir(exist_ok=True)
        shutil.copyfile(file, self.folder / "last")
        self.saved += 1
        if self.saved == self.dies_after:
            raise KeyboardInterrupt


@pytest.fixture
def checkpoints(tmp_path: Path) -> KeptCheckpoints:
    return KeptCheckpoints(tmp_path / "checkpoints")


@pytest.fixture
def work(tmp_path: Path, checkpoints: KeptCheckpoints) -> Callable[..., Any]:
    """Make the place of one pass; arguments say what it finds there."""
    from trimtab_optimizer.package import Model
    from trimtab_optimizer.passes.contract import Workplace

    def make(name: str = "out", data: Any = None, source: Any = None, **changes: Any) -> Workplace:
        scratch = tmp_path / f"{name}-scratch"
        scratch.mkdir()
        given = {"seed": 0, "allow_pickle": False, "checkpoints": checkpoints} | changes
        return Workplace(tmp_path / name, scratch, source=source or Model(tmp_path, None), data=data, **given)  # type: ignore[arg-type]

    return make


@pytest.fixture
def report_of(directory_store: Any, tmp_path: Path) -> Callable[[Answer], Any]:
    """Read the report.json that an answer's artifact carries."""

    def read(answer: Answer) -> Any:
        assert answer.result, answer.failure
        folder = Path(tempfile.mkdtemp(dir=tmp_path)) / "artifact"
        directory_store.pull(f"oci://{answer.result.artifact}", folder)
        return json.loads((folder / "report.json").read_text())

    return read


@pytest.fixture
def linear_package(tmp_path: Path) -> Callable[..., Path]:
    """Write a package of one linear layer; arguments change its model.yaml, its code or its weights."""

    def write(code: str = LINEAR, weights: dict[str, Any] | None = None, **changes: Any) -> Path:
        import torch
        from safetensors.torch import save_file

        folder = Path(tempfile.mkdtemp(dir=tmp_path)) / "package"
        folder.mkdir()
        (folder / "linear.py").write_text(code)
        (folder / "model.yaml").write_text(yaml.safe_dump(LINEAR_YAML | changes))
        shapes = {"weight": (3, 4), "bias": (3,)}
        made = {name: torch.linspace(-1, 1, int(np.prod(shape))).reshape(shape) for name, shape in shapes.items()}
        save_file(made if weights is None else weights, folder / "model.safetensors")
        return folder

    return write


@pytest.fixture
def data_package(tmp_path: Path) -> Callable[..., Path]:
    """Write a data package for the linear model; arguments replace or, with None, leave out arrays."""

    def write(**changes: Any) -> Path:
        arrays = {
            "x": np.random.default_rng(0).standard_normal((20, 4)).astype(np.float32),
            "label": np.arange(20, dtype=np.int64) % 3,
        }
        folder = Path(tempfile.mkdtemp(dir=tmp_path)) / "data"
        folder.mkdir()
        np.savez(folder / "data.npz", **{k: v for k, v in (arrays | changes).items() if v is not None})
        return folder

    return write


@dataclass(frozen=True)
class RunningRegistry:
    """A real registry on loopback."""

    host: str
    folder: Path


_HTPASSWD = "trimtab:$2b$05$LD50vdDq3qU2d7WGBYBDYe0yRydjKhIRa54Ia8XMIyezm.znRju5u\n"  # the password is "steersman"


def _start_registry(folder: Path, private: bool) -> tuple[RunningRegistry, subprocess.Popen[str]]:
    program = shutil.which("docker-registry")
    if program is None:
        pytest.skip("needs the program docker-registry (Debian package docker-registry)")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        host = f"127.0.0.1:{probe.getsockname()[1]}"
    (folder / "htpasswd").write_text(_HTPASSWD)
    settings: dict[str, Any] = {
        "version": 0.1,
        "log": {"level": "info"},
        "storage": {"filesystem": {"rootdirectory": str(folder / "storage")}},
        "http": {"addr": host},
    }
    if private:
        settings["auth"] = {"htpasswd": {"realm": "trimtab", "path": str(folder / "htpasswd")}}
    (folder / "config.yml").write_text(yaml.safe_dump(settings))
    process = subprocess.Popen(
        [program, "serve", folder / "config.yml"], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
    )
    assert process.stderr is not None
    if not any("listening on" in line for line in process.stderr):
        pytest.fail("the registry ended before it listened")
    return RunningRegistry(host, folder), process


def _serve(folder: Path, private: bool) -> Iterator[RunningRegistry]:
    registry, process = _start_registry(folder, private)
    drain = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=process.stderr)
    yield registry
    for started in (process, drain):
        started.terminate()
        started.wait()


@pytest.fixture(scope="session")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningRegistry]:
    """A registry that is open to all."""
    yield from _serve(tmp_path_factory.mktemp("registry"), private=False)


@pytest.fixture(scope="session")
def private_registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningRegistry]:
    """A registry that wants the user trimtab with the password steersman."""
    yield from _serve(tmp_path_factory.mktemp("private-registry"), private=True)
