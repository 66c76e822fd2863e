import shutil
from pathlib import Path

import pytest

from trimtab_cluster import components
from trimtab_cluster.components import COMPONENTS, component


def test_versions_are_those_that_go_mod_pins() -> None:
    pinned = {module: each.version(module) for each in COMPONENTS for _, module in each.tells.values()}

    assert pinned == {
        "k8s.io/kubernetes": "1.37.2",
        "github.com/containerd/containerd/v2": "2.4.2",
        "go.etcd.io/etcd/server/v3": "3.6.16",
        "github.com/coredns/coredns": "1.13.1",
        "helm.sh/helm/v4": "4.3.1",
    }


def test_the_linker_tells_kubernetes_its_version() -> None:
    flags = component("kubernetes").link_flags()

    assert flags.endswith(
        "-X k8s.io/component-base/version.gitVersion=v1.37.2 "
        "-X k8s.io/component-base/version.gitMajor=1 -X k8s.io/component-base/version.gitMinor=37"
    )


def test_every_program_of_a_component_is_a_file_that_it_builds() -> None:
    for each in COMPONENTS:
        assert set(each.programs.values()) <= set(each.builds)


@pytest.mark.parametrize("name", ["go.mod", "go.sum", "main.go"])
def test_a_change_of_the_sources_changes_the_digest(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(components.GO_SOURCES / "coredns", tmp_path / "coredns")
    before = component("coredns").digest()
    monkeypatch.setattr(components, "GO_SOURCES", tmp_path)
    assert component("coredns").digest() == before

    with (tmp_path / "coredns" / name).open("a") as file:
        file.write("\n")

    assert component("coredns").digest() != before
