"""Demo and tests make and delete objects, so they use no cluster but their own or one that was named for them."""

from pathlib import Path

import pytest

from target import named_context, named_target
from trimtab_cluster.errors import ClusterError

KUBECONFIG = "{contexts: [{name: scratch}, {name: production}], current-context: production}"


@pytest.fixture
def kubeconfig(tmp_path: Path) -> str:
    path = tmp_path / "config"
    path.write_text(KUBECONFIG)
    return str(path)


def test_the_current_context_of_the_usual_kubeconfig_is_never_used(kubeconfig: str) -> None:
    assert named_context({"KUBECONFIG": kubeconfig}) is None
    assert named_target({"KUBECONFIG": kubeconfig, "TRIMTAB_REGISTRY": "registry.example"}) is None


@pytest.mark.parametrize("variable", ["KUBECONFIG", "TRIMTAB_KUBECONFIG"])
def test_a_cluster_is_used_whose_context_is_named(kubeconfig: str, variable: str) -> None:
    named = {variable: kubeconfig, "TRIMTAB_CONTEXT": "scratch", "TRIMTAB_REGISTRY": "registry.example/me"}

    target = named_target(named)

    assert target
    assert (str(target.kubeconfig), target.context, target.own) == (kubeconfig, "scratch", None)
    assert (target.registry.address, target.registry.known_as) == ("registry.example/me", "registry.example/me")
    assert target.kubectl_command()[1:] == [f"--kubeconfig={kubeconfig}", "--context=scratch"]


def test_a_kubeconfig_without_a_context_is_refused(kubeconfig: str) -> None:
    with pytest.raises(ClusterError, match="set TRIMTAB_CONTEXT to the one that may be used"):
        named_context({"TRIMTAB_KUBECONFIG": kubeconfig})


def test_a_context_that_is_not_there_is_refused(kubeconfig: str) -> None:
    with pytest.raises(ClusterError, match=r"has no context 'staging'(?s:.*)name one of: scratch, production"):
        named_context({"TRIMTAB_KUBECONFIG": kubeconfig, "TRIMTAB_CONTEXT": "staging"})


def test_a_kubeconfig_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ClusterError, match="is no file"):
        named_context({"TRIMTAB_KUBECONFIG": str(tmp_path / "none"), "TRIMTAB_CONTEXT": "scratch"})


def test_a_cluster_without_a_registry_is_refused(kubeconfig: str) -> None:
    with pytest.raises(ClusterError, match="set TRIMTAB_REGISTRY to a registry"):
        named_target({"TRIMTAB_KUBECONFIG": kubeconfig, "TRIMTAB_CONTEXT": "scratch"})


def test_images_that_exist_already_are_named_all_or_none(kubeconfig: str) -> None:
    named = {"TRIMTAB_KUBECONFIG": kubeconfig, "TRIMTAB_CONTEXT": "scratch", "TRIMTAB_REGISTRY": "registry.example"}

    with pytest.raises(ClusterError, match="does not name trimtab-optimizer, trimtab-runtime"):
        named_target(named | {"TRIMTAB_IMAGES": "trimtab-operator=registry.example/operator:1"})
