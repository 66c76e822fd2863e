import hashlib
import io
import json
import re
import tarfile
from pathlib import Path

import pytest

from trimtab_cluster.building import pip_config
from trimtab_cluster.dns import corefile, resources
from trimtab_cluster.node import containerd_config, kubelet_config, pod_network, proxy_config, shim_sockets
from trimtab_cluster.pause import write_archive
from trimtab_cluster.places import Cluster
from trimtab_cluster.registry import hosts_toml, registry_config

CLUSTER = Cluster("unit")


@pytest.mark.parametrize(
    "configuration",
    [
        containerd_config(CLUSTER),
        json.dumps(kubelet_config(CLUSTER)),
        json.dumps(pod_network(CLUSTER)),
        json.dumps(proxy_config(CLUSTER)),
        json.dumps(registry_config(CLUSTER, "198.18.0.2")),
        corefile(CLUSTER, "198.18.0.2"),
    ],
    ids=["containerd", "kubelet", "pods", "proxy", "registry", "dns"],
)
def test_every_path_of_a_component_is_one_that_down_removes(configuration: str) -> None:
    read_only = {"/usr/lib/cni", "/dev/null", f"/{CLUSTER.namespace}"}
    paths = set(re.findall(r'["\s:=](/[^"\s]+)|unix://([^"\s]+)', configuration))
    named = {path for pair in paths for path in pair if path and not path.startswith("//")} - read_only

    assert all(path.startswith((f"{CLUSTER.state}/", str(shim_sockets(CLUSTER)))) for path in named), named


def test_pods_of_a_cluster_are_in_its_own_cgroup() -> None:
    assert kubelet_config(CLUSTER)["cgroupRoot"] == "/trimtab-unit"


def test_the_dns_service_is_where_the_kubelet_sends_pods() -> None:
    service = next(each for each in resources("198.18.0.2").values() if each["kind"] == "Service")

    assert kubelet_config(CLUSTER)["clusterDNS"] == [service["spec"]["clusterIP"]]


def test_the_registry_is_reached_by_address_without_tls() -> None:
    assert '[host."http://198.18.0.2:5000"]' in hosts_toml("198.18.0.2")


def test_pip_looks_into_the_folders_of_wheels_that_there_are() -> None:
    assert "find-links = /mnt /media\n" in pip_config(["/mnt", "/media"])
    assert "find-links" not in pip_config([])


def test_the_pause_image_is_a_valid_oci_archive(tmp_path: Path) -> None:
    (tmp_path / "pause").write_bytes(b"program")
    write_archive(tmp_path / "pause", tmp_path / "pause.tar", "localhost/pause:1")

    with tarfile.open(tmp_path / "pause.tar") as archive:
        files = {each.name: archive.extractfile(each).read() for each in archive}  # type: ignore[union-attr]
    blobs = {name.rpartition("/")[2]: content for name, content in files.items() if name.startswith("blobs/")}
    assert all(hashlib.sha256(content).hexdigest() == name for name, content in blobs.items())
    named = json.loads(files["index.json"])["manifests"][0]
    manifest = json.loads(blobs[named["digest"].removeprefix("sha256:")])
    assert named["annotations"] == {"io.containerd.image.name": "localhost/pause:1"}
    layer = blobs[manifest["layers"][0]["digest"].removeprefix("sha256:")]
    with tarfile.open(fileobj=io.BytesIO(layer)) as content:
        assert content.getnames() == ["pause"]
