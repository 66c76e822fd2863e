"""A Job that is killed in the midst of a long pass goes on within that pass, in the pod where its scratch is."""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from install import push
from road import Road
from target import Target
from trimtab_testing.graphs import chain_beside
from trimtab_testing.pods import processes_of

_SIDE, _MATRICES = 4096, 16
_JOB_SECONDS = 120

MODEL = {
    "name": "large",
    "format": "onnx",
    "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, _SIDE]}],
    "outputs": [{"name": "y", "datatype": "FP32", "shape": [-1, _SIDE]}],
}


@pytest.fixture(scope="module")
def uri(target: Target, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Push a model of 1 GiB, and return its URI."""
    folder = tmp_path_factory.mktemp("large")
    chain_beside(folder, _SIDE, _MATRICES)
    (folder / "model.yaml").write_text(yaml.safe_dump(MODEL))
    pushed = push(target, folder, "models/large:v1")
    (folder / "weights.bin").unlink()
    return pushed


def test_a_pass_goes_on_where_its_container_was_killed(target: Target, namespace: str, uri: str) -> None:
    if target.own is None:
        pytest.skip("processes of a cluster that somebody named cannot be reached from here")
    job = Job(target, namespace, "large")
    spec = {
        "model": {"uri": uri, "format": "onnx"},
        "optimization": {"passes": [{"quantize": {"dtype": "int8", "mode": "dynamic"}}]},
        "replicas": 1,
    }
    manifest = {"apiVersion": "trimtab.dev/v1alpha1", "kind": "ModelDeployment", "metadata": {"name": "large"}}
    target.kubectl("-n", namespace, "apply", "-f", "-", given=yaml.safe_dump(manifest | {"spec": spec}))

    killed = job.kill_in_the_midst_of_a_pass()
    Road(target, namespace, "large").follow(lambda status: status.get("phase") == "Healthy")

    (pod,) = job.pods()
    (container,) = pod["status"]["containerStatuses"]
    assert (container["restartCount"], container["state"]["terminated"]["exitCode"]) == (1, 0)
    assert pod["metadata"]["uid"] == killed
    assert "pass goes on with what a process before this one wrote" in job.log()


@dataclass(frozen=True, slots=True)
class Job:
    """The optimize Job of a ModelDeployment."""

    target: Target
    namespace: str
    name: str

    def kill_in_the_midst_of_a_pass(self) -> str:
        """Kill its process once a part of a pass is safe on the disk, and return the uid of its pod."""
        deadline = time.monotonic() + _JOB_SECONDS
        while not (pids := processes_of(self.pods(), "trimtab_optimizer")):
            assert time.monotonic() < deadline, "the Job has no process"
            time.sleep(0.1)
        while not any(is_partly_safe(pid) for pid in pids):
            assert time.monotonic() < deadline, "no pass was under way"
            time.sleep(0.001)
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        (pod,) = self.pods()
        return str(pod["metadata"]["uid"])

    def pods(self) -> list[dict[str, Any]]:
        """Return its pods."""
        labels = f"trimtab.dev/deployment={self.name},app.kubernetes.io/component=optimizer"
        found: list[dict[str, Any]] = self.target.read("-n", self.namespace, "pods", "-l", labels)["items"]
        return found

    def log(self) -> str:
        """Return what the container that ended last has said."""
        (pod,) = self.pods()
        return self.target.kubectl("-n", self.namespace, "logs", pod["metadata"]["name"])


def is_partly_safe(pid: int) -> bool:
    """Tell whether a journal in the scratch of a Job's process counts a piece."""
    return any(line.isdigit() for journal in journals(pid) for line in journal.read_text().split("\n"))


def journals(pid: int) -> Iterator[Path]:
    with suppress(OSError):
        yield from Path(f"/proc/{pid}/root/scratch/unfinished").rglob("*.journal")
