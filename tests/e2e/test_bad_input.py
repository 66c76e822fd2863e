"""What a user can get wrong that no schema sees: the status names cause and mend, and what served serves on."""

import copy
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from callers import Callers
from install import EXAMPLES, install, manifest_of, uninstall
from road import Road
from target import Target
from trimtab_testing.bad_input import (
    FAULTY_REGISTRY,
    a_table_a_row,
    pickled,
    push_data,
    push_model,
    start_faulty_registry,
    with_code,
    with_manifest,
    without_manifest,
)

ROWS = np.zeros((20, 64), np.float32)
LABELS = np.arange(20) % 10
NOBODYS_IMAGE = "registry.local:5000/nobody/nothing:1"
NAMESPACE = "bad-input"

Spec = dict[str, Any]


class Bench:
    """A ModelDeployment that serves version 1, and a place for what is wrong with the next one."""

    def __init__(self, target: Target, namespace: str, folder: Path) -> None:
        self.target = target
        self.namespace = namespace
        self.road = Road(target, namespace)
        self.good = yaml.safe_load(manifest_of(target, EXAMPLES / "digits/v1.yaml"))
        self._folder = folder
        self._count = 0

    @property
    def stable(self) -> str:
        return str(self.road.status().get("stableRevision"))

    @property
    def folder(self) -> Path:
        """Return a path where nothing is yet."""
        self._count += 1
        return self._folder / str(self._count)

    def model(self, name: str, change: Callable[[Path], Any]) -> Spec:
        """Return a spec of the example whose model has a change."""
        uri = push_model(self.target, self.folder, name, change)
        return self.spec(model={"uri": uri, "format": "pytorch"})

    def data(self, name: str, **arrays: Any) -> Spec:
        """Return a spec of the example with other data for its gate."""
        uri = push_data(self.target, self.folder, name, **arrays)
        return self.spec(evaluation={**self.good["spec"]["evaluation"], "data": uri})

    def spec(self, **changes: Any) -> Spec:
        """Return the spec of the example with other fields."""
        return copy.deepcopy(self.good["spec"]) | changes

    def with_pods(self, container: dict[str, Any]) -> Spec:
        """Return a spec whose pods differ in their container, and that waits for them only a little."""
        template = {"spec": {"containers": [{"name": "server", **container}]}}
        return self.spec(runtime={"podTemplate": template}, progressDeadlineSeconds=10)

    def apply(self, spec: Spec) -> None:
        manifest = {**self.good, "spec": spec}
        self.target.kubectl("-n", self.namespace, "apply", "-f", "-", given=json.dumps(manifest))

    def complaint(self) -> tuple[str, str]:
        """Wait until something is wrong, and return reason and message of the condition that says so."""

        def degraded(status: dict[str, Any]) -> bool:
            return status.get("phase") == "Degraded" and status["observedGeneration"] == self.generation()

        condition = next(item for item in self.road.follow(degraded)["conditions"] if item["type"] == "Degraded")
        assert condition["status"] == "True"
        return str(condition["reason"]), str(condition["message"])

    def generation(self) -> int:
        return int(self.target.read("-n", self.namespace, "mdeploy", "digits")["metadata"]["generation"])


@pytest.fixture(scope="module")
def bench(target: Target, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    host = f"{FAULTY_REGISTRY}.{NAMESPACE}.svc:5000"
    install(target, NAMESPACE, insecure=(host,))
    start_faulty_registry(target, NAMESPACE, target.deliver_images()["trimtab-operator"])
    bench = Bench(target, NAMESPACE, tmp_path_factory.mktemp("bad"))
    bench.apply(bench.spec(replicas=1))
    bench.road.follow(lambda status: status.get("phase") == "Healthy")
    yield bench
    if target.own is None:
        uninstall(target, NAMESPACE)


@pytest.fixture
def serving(bench: Bench) -> Iterator[Bench]:
    """Give the bench, and hold that its callers notice nothing and version 1 serves in the end as in the beginning."""
    before = bench.stable
    with Callers(bench.target, bench.namespace, ("rest-new", "grpc-kept"), pause=0.2) as callers:
        callers.start()
        yield bench
        callers.wait_for(callers.answered + 4)
        assert callers.failures == []
        assert set(callers.by_revision) == {before}
    assert bench.stable == before
    bench.apply(bench.spec(replicas=1))
    bench.road.follow(lambda status: status.get("phase") == "Healthy")


CASES: dict[str, tuple[Callable[[Bench], Spec], str, str]] = {
    "a URI that names nothing": (
        lambda bench: bench.spec(model={"uri": "oci://registry.local:5000/models/none:v1", "format": "pytorch"}),
        "SourceNotFound",
        "models/none:v1",
    ),
    "a registry that wants credentials": (
        lambda bench: bench.spec(model={"uri": f"oci://{FAULTY_REGISTRY}.{NAMESPACE}.svc:5000/locked:v1"}),
        "Unauthorized",
        "spec.model.secretRef",
    ),
    "content that is not what its digest says": (
        lambda bench: bench.spec(model={"uri": f"oci://{FAULTY_REGISTRY}.{NAMESPACE}.svc:5000/liar@sha256:{'0' * 64}"}),
        "DigestMismatch",
        "sha256:0000",
    ),
    "a package without model.yaml": (
        lambda bench: bench.model("no-manifest", without_manifest),
        "InvalidPackage",
        "model.yaml",
    ),
    "an entry point that raises": (
        lambda bench: bench.model("raises", with_code("raise RuntimeError('no weights for you')")),
        "InvalidPackage",
        "RuntimeError: no weights for you",
    ),
    "a model with other shapes than its manifest": (
        lambda bench: bench.model("shapes", with_manifest(outputs=[{"name": "logits", "shape": [-1, 7]}], labels=None)),
        "InvalidPackage",
        "logits",
    ),
    "a pickle": (lambda bench: bench.model("pickle", pickled), "UnsafeFormat", "spec.model.allowPickle"),
    "data with other names": (
        lambda bench: bench.data("names", images=ROWS, label=LABELS),
        "InvalidData",
        "pixels",
    ),
    "data with other shapes": (
        lambda bench: bench.data("shapes", pixels=ROWS[:, :32], label=LABELS),
        "InvalidData",
        "pixels",
    ),
    "a gate that fails": (
        lambda bench: bench.spec(
            evaluation={**bench.good["spec"]["evaluation"], "metrics": [{"name": "accuracy", "min": 1}]}
        ),
        "GateFailed",
        "below the minimum 1",
    ),
    "a gate that cannot be computed": (
        lambda bench: bench.model("table", a_table_a_row),
        "GateNotComputable",
        "accuracy could not be computed",
    ),
    "a Job that runs out of memory": (
        lambda bench: (
            bench.model("hungry", with_code("hoard = bytearray(1 << 30)"))
            | {"optimization": {"resources": {"limits": {"memory": "512Mi"}}}}
        ),
        "OutOfMemory",
        "spec.optimization.resources.limits.memory",
    ),
    "a Job that runs out of time": (
        lambda bench: (
            bench.model("slow", with_code("import time; time.sleep(600)")) | {"optimization": {"timeoutSeconds": 12}}
        ),
        "DeadlineExceeded",
        "spec.optimization.timeoutSeconds",
    ),
    "an image that cannot be pulled": (
        lambda bench: bench.with_pods({"image": NOBODYS_IMAGE}),
        "ProgressDeadlineExceeded",
        NOBODYS_IMAGE,
    ),
    "pods that never become ready": (
        lambda bench: bench.with_pods({"startupProbe": {"httpGet": {"path": "/nowhere", "port": "http"}}}),
        "ProgressDeadlineExceeded",
        "0 of 2 pods",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_the_status_says_what_is_wrong_and_the_stable_revision_serves_on(serving: Bench, case: str) -> None:
    spec, reason, words = CASES[case]

    serving.apply(spec(serving))

    found, message = serving.complaint()
    assert (found, words in message) == (reason, True), message


def test_a_job_that_is_evicted_is_tried_again_and_nobody_is_blamed(serving: Bench) -> None:
    held_back = {**serving.good["spec"]["evaluation"], "metrics": [{"name": "accuracy", "min": 1}]}
    slow = serving.model("evicted", with_code("import time; time.sleep(3)"))
    serving.apply(slow | {"evaluation": held_back})
    evict(serving, first_job_pod(serving))

    reason, message = serving.complaint()

    assert (reason, "below the minimum 1" in message) == ("GateFailed", True), message  # so the Job went to its end
    assert len(serving.target.read("-n", serving.namespace, "jobs")["items"]) == 1


def test_an_operator_without_a_permission_says_which_and_goes_on_once_it_is_granted(serving: Bench) -> None:
    role = serving.target.read("-n", serving.namespace, "role", "trimtab-operator")
    rules = [rule for rule in role["rules"] if rule["resources"] != ["jobs"]]
    replace_rules(
        serving, role, [*rules, {"apiGroups": ["batch"], "resources": ["jobs"], "verbs": ["get", "list", "watch"]}]
    )
    try:
        serving.apply(serving.model("forbidden", with_code("# another model")))

        reason, message = serving.complaint()
        assert reason == "Forbidden"
        assert 'cannot patch resource "jobs"' in message
    finally:
        replace_rules(serving, role, role["rules"])
    serving.road.follow(lambda status: status.get("phase") in ("Optimizing", "Progressing"))


def first_job_pod(bench: Bench) -> str:
    """Wait until a pod of a Job runs, and return its name."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        pods = bench.target.read("-n", bench.namespace, "pods", "-l", "batch.kubernetes.io/job-name")["items"]
        running = [pod["metadata"]["name"] for pod in pods if pod["status"].get("phase") == "Running"]
        if running:
            return str(running[0])
        time.sleep(0.2)
    pytest.fail("no pod of a Job came up")


def evict(bench: Bench, pod: str) -> None:
    """Evict a pod through the API, as a drain of its node does."""
    meta = {"name": pod, "namespace": bench.namespace}
    eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": meta}
    path = f"/api/v1/namespaces/{bench.namespace}/pods/{pod}/eviction"
    bench.target.kubectl("create", "--raw", path, "-f", "-", given=json.dumps(eviction))


def replace_rules(bench: Bench, role: dict[str, Any], rules: list[dict[str, Any]]) -> None:
    change = json.dumps({"rules": rules})
    name = role["metadata"]["name"]
    bench.target.kubectl("-n", bench.namespace, "patch", "role", name, "--type=merge", "-p", change)
