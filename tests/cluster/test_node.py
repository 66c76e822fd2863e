"""What a pod finds on the node: names, services, the registry, and a model mounted as an image."""

import json
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from trimtab_cluster import images, state
from trimtab_cluster.images import Image
from trimtab_cluster.places import Cluster
from trimtab_testing.clusters import kubectl, run

LOOK = """
import json, os, socket, urllib.request
def write(path):
    try:
        open(path, "w")
    except OSError as error:
        return error.strerror
print(json.dumps({
    "api": socket.gethostbyname("kubernetes.default.svc.cluster.local"),
    "short": socket.gethostbyname("kubernetes.default"),
    "registry": socket.gethostbyname("registry.local"),
    "catalog": json.load(urllib.request.urlopen("http://registry.local:5000/v2/_catalog")),
    "file": open("/model/srv/hello.txt").read(),
    "write": write("/model/srv/hello.txt"),
    "user": os.getuid(),
}))
"""


@pytest.fixture(scope="module")
def sample(node_cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> str:
    context = tmp_path_factory.mktemp("context")
    (context / "Dockerfile").write_text("ARG BASE\nFROM ${BASE}\nCOPY hello.txt /srv/hello.txt\n")
    (context / "hello.txt").write_text("hello")
    name = "trimtab-sample"
    return images.deliver(images.registry_of(node_cluster), None, [Image(name, "Dockerfile")], context)[name]


@pytest.fixture(scope="module")
def seen(node_cluster: Cluster, sample: str) -> dict[str, object]:
    """What a restricted pod sees."""
    kubectl(node_cluster, "create", "namespace", "restricted")
    kubectl(node_cluster, "label", "namespace", "restricted", "pod-security.kubernetes.io/enforce=restricted")
    kubectl(node_cluster, "-n", "restricted", "wait", "--for=create", "serviceaccount/default", "--timeout=60s")
    kubectl(node_cluster, "apply", "-f", "-", given=json.dumps(_restricted_pod(sample)))
    ended = "--for=jsonpath={.status.phase}=Succeeded"
    kubectl(node_cluster, "-n", "restricted", "wait", ended, "pod/looking", "--timeout=60s")
    found: dict[str, object] = json.loads(kubectl(node_cluster, "-n", "restricted", "logs", "looking"))
    return found


def test_a_pod_resolves_a_service_and_the_registry_by_name(node_cluster: Cluster, seen: dict[str, object]) -> None:
    assert (seen["api"], seen["short"]) == ("10.96.0.1", "10.96.0.1")
    assert seen["registry"] == state.require(node_cluster).node


def test_a_pod_reaches_the_registry(seen: dict[str, object]) -> None:
    assert seen["catalog"] == {"repositories": ["trimtab/trimtab-sample"]}


def test_a_restricted_pod_reads_a_model_that_is_mounted_as_an_image(seen: dict[str, object]) -> None:
    assert (seen["user"], seen["file"], seen["write"]) == (65532, "hello", "Read-only file system")


def test_a_second_delivery_gives_the_same_reference(node_cluster: Cluster, sample: str, tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text("ARG BASE\nFROM ${BASE}\nCOPY hello.txt /srv/hello.txt\n")
    (tmp_path / "hello.txt").write_text("hello")

    again = images.deliver(images.registry_of(node_cluster), None, [Image("trimtab-sample", "Dockerfile")], tmp_path)

    assert again == {"trimtab-sample": sample}


def test_buildah_leaves_no_mount(sample: str) -> None:
    assert "trimtab/buildah" not in Path("/proc/self/mounts").read_text()


def test_the_registry_forgets_what_is_deleted(node_cluster: Cluster, sample: str) -> None:
    digest = sample.partition("@")[2]
    address = f"http://{state.require(node_cluster).node}:5000/v2/trimtab/trimtab-sample/manifests/{digest}"
    accepted = {"Accept": "application/vnd.oci.image.manifest.v1+json"}

    with urllib.request.urlopen(urllib.request.Request(address, headers=accepted, method="DELETE")) as answer:
        assert answer.status == 202
    with pytest.raises(urllib.error.HTTPError, match="404"):
        urllib.request.urlopen(urllib.request.Request(address, headers=accepted))


def test_the_environment_is_what_a_shell_needs(node_cluster: Cluster) -> None:
    printed = run("env", "--name", node_cluster.name)

    assert f"export KUBECONFIG={node_cluster.kubeconfig}\n" in printed
    assert f"export TRIMTAB_REGISTRY={state.require(node_cluster).node}:5000\n" in printed


def _restricted_pod(image: str) -> dict[str, object]:
    container = {
        "name": "looking",
        "image": image,
        "command": ["python3", "-c", LOOK],
        "volumeMounts": [{"name": "model", "mountPath": "/model"}],
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
    }
    user = {"runAsNonRoot": True, "runAsUser": 65532, "seccompProfile": {"type": "RuntimeDefault"}}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "looking", "namespace": "restricted"},
        "spec": {
            "restartPolicy": "Never",
            "securityContext": user,
            "volumes": [{"name": "model", "image": {"reference": image}}],
            "containers": [container],
        },
    }
