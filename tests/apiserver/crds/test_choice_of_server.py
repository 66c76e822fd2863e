"""Tests make and delete objects, so they run on no server but their own or one that was named for them."""

from pathlib import Path

import pytest

from trimtab_testing.apiserver import UnsafeCluster, named_server

KUBECONFIG = "{contexts: [{name: scratch}, {name: production}]}"


@pytest.fixture
def kubeconfig(tmp_path: Path) -> str:
    path = tmp_path / "config"
    path.write_text(KUBECONFIG)
    return str(path)


def test_the_usual_kubeconfig_is_never_used(kubeconfig: str, tmp_path: Path) -> None:
    assert named_server({"KUBECONFIG": kubeconfig}, tmp_path) is None


def test_a_server_is_used_that_is_named_with_its_context(kubeconfig: str, tmp_path: Path) -> None:
    named = {"TRIMTAB_TEST_KUBECONFIG": kubeconfig, "TRIMTAB_TEST_CONTEXT": "scratch"}

    server = named_server(named, tmp_path)

    assert server
    assert (str(server.kubeconfig), server.context) == (kubeconfig, "scratch")


@pytest.mark.parametrize("named", [{"TRIMTAB_TEST_CONTEXT": "scratch"}, {"TRIMTAB_TEST_KUBECONFIG": "/nowhere"}])
def test_half_a_name_is_refused(named: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(UnsafeCluster, match="set both TRIMTAB_TEST_KUBECONFIG and TRIMTAB_TEST_CONTEXT, or neither"):
        named_server(named, tmp_path)


def test_a_context_that_is_not_there_is_refused(kubeconfig: str, tmp_path: Path) -> None:
    named = {"TRIMTAB_TEST_KUBECONFIG": kubeconfig, "TRIMTAB_TEST_CONTEXT": "staging"}

    with pytest.raises(UnsafeCluster, match="has no context 'staging', only scratch, production"):
        named_server(named, tmp_path)


def test_a_kubeconfig_that_is_not_there_is_refused(tmp_path: Path) -> None:
    named = {"TRIMTAB_TEST_KUBECONFIG": str(tmp_path / "none"), "TRIMTAB_TEST_CONTEXT": "scratch"}

    with pytest.raises(UnsafeCluster, match="which is no file"):
        named_server(named, tmp_path)
