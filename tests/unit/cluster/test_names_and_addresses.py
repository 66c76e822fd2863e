from pathlib import Path

import pytest

from trimtab_cluster.errors import ClusterError
from trimtab_cluster.network import addresses_of, free_slot, link_names
from trimtab_cluster.places import Cluster


def test_slots_are_neighbouring_pairs_that_do_not_overlap() -> None:
    pairs = [addresses_of(slot) for slot in (0, 1, 63, 64, 16383)]

    assert [(pair.host, pair.node) for pair in pairs] == [
        ("198.18.0.1", "198.18.0.2"),
        ("198.18.0.5", "198.18.0.6"),
        ("198.18.0.253", "198.18.0.254"),
        ("198.18.1.1", "198.18.1.2"),
        ("198.18.255.253", "198.18.255.254"),
    ]


def test_a_slot_is_free_only_when_neither_of_its_ends_is_taken() -> None:
    assert free_slot(["192.0.2.1"]) == 0
    assert free_slot(["198.18.0.1", "198.18.0.6"]) == 2


def test_no_free_slot_is_an_error_with_a_mend() -> None:
    with pytest.raises(ClusterError, match="down --all"):
        free_slot(addresses_of(slot).host for slot in range(16384))


def test_link_names_fit_the_kernel_and_differ_between_users() -> None:
    names = link_names(Cluster("a" * 30))

    assert all(len(name) <= 15 for name in names)
    assert len(set(names)) == 2


def test_two_users_with_one_cluster_name_have_different_links(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", "/home/one")
    ours = link_names(Cluster("demo"))
    monkeypatch.setenv("XDG_STATE_HOME", "/home/two")

    assert link_names(Cluster("demo")) != ours


@pytest.mark.parametrize("name", ["", "Demo", "-a", "a-", "../a", "a/b", ".a", "a" * 40])
def test_a_name_that_cannot_be_part_of_paths_and_links_is_refused(name: str) -> None:
    with pytest.raises(ClusterError, match="cannot name a cluster"):
        Cluster(name)


def test_a_state_folder_too_deep_for_sockets_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(Path("/") / ("x" * 80)))

    with pytest.raises(ClusterError, match="XDG_STATE_HOME"):
        Cluster("demo")
