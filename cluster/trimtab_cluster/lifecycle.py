"""The order of things: how a cluster comes up, and what is asked before."""

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from trimtab_cluster import (
    binaries,
    cgroups,
    checks,
    cleaning,
    control_plane,
    dns,
    kernel,
    network,
    node,
    packages,
    pause,
    pki,
    processes,
    registry,
    state,
)
from trimtab_cluster.api import Api
from trimtab_cluster.components import COMPONENTS, FOR_APISERVER, FOR_NODE
from trimtab_cluster.errors import ClusterError
from trimtab_cluster.network import Addresses
from trimtab_cluster.places import Cluster
from trimtab_cluster.say import say
from trimtab_cluster.state import Record, Shape
from trimtab_cluster.toolchain import find_kubectl
from trimtab_cluster.waiting import wait_for


def up(cluster: Cluster, shape: Shape) -> None:
    """Bring a cluster up, from nothing or from what a crash left; do nothing where it is up already."""
    packages.install_missing(packages.FOR_NODE if shape.node else packages.FOR_APISERVER)
    checks.require(shape)
    programs = binaries.ready(FOR_NODE if shape.node else FOR_APISERVER)
    programs |= binaries.present(COMPONENTS) | {"kubectl": Path(find_kubectl())}
    started = time.monotonic()
    with state.held(cluster):
        if is_up(cluster):
            _require_shape(cluster, shape)
            say(f"{cluster.name} is up already")
            return
        if cleaning.leftovers(cluster):
            say(f"what is left of {cluster.name} is removed first")
        cleaning.remove(cluster)
        _bring_up(cluster, shape, programs)
    say(f"{cluster.name} is up after {time.monotonic() - started:.1f} s")


def down(cluster: Cluster) -> None:
    """Remove a cluster, or what is left of one."""
    checks.require_root()
    with state.held(cluster):
        cleaning.remove(cluster)
    say(f"{cluster.name} is gone")


def is_up(cluster: Cluster) -> bool:
    """Tell whether a cluster runs, with every component alive and the API server ready."""
    record = state.read(cluster)
    if record is None or any(processes.recorded(cluster, name) is None for name in processes.components(cluster)):
        return False
    return Api(cluster.etc, record.node).is_ready()


def _require_shape(cluster: Cluster, shape: Shape) -> None:
    running = state.require(cluster).shape
    if running != shape:
        raise ClusterError(
            f"{cluster.name} is up as {running}, not as {shape}", "remove it first, or take another name"
        )


def _bring_up(cluster: Cluster, shape: Shape, programs: dict[str, Path]) -> None:
    for folder in (cluster.bin, cluster.etc, cluster.log, cluster.run):
        folder.mkdir(parents=True)
    for program, path in programs.items():
        (cluster.bin / program).symlink_to(path)
    cgroups.create(cluster)
    addresses = network.create(cluster)
    pki.make_pki(cluster.etc, addresses.node)
    api = Api(cluster.etc, addresses.node)
    start = partial(_start, cluster)
    control_plane.start_etcd(cluster, start)
    control_plane.start_apiserver(cluster, addresses, shape, start)
    if shape.node:
        _prepare_node(cluster, addresses, start)
    wait_for(cluster, "kube-apiserver", "the API server was ready", api.is_ready)
    if shape.controllers:
        control_plane.start_controllers(cluster, start)
    if shape.node:
        _join_node(cluster, addresses, api, start)
    if shape.controllers:
        account = "/api/v1/namespaces/default/serviceaccounts/default"  # without it no pod can be made
        wait_for(cluster, "kube-controller-manager", "controllers worked", lambda: api.exists(account))
    state.write(cluster, Record(shape, addresses.node, addresses.host))


def _prepare_node(cluster: Cluster, addresses: Addresses, start: Callable[[str, list[str]], None]) -> None:
    """Start what needs no API server, while that comes up."""
    kernel.remember(cluster)
    registry.start_registry(cluster, addresses, start)
    node.start_containerd(cluster, start)
    archive = cluster.state / "pause.tar"
    pause.write_archive(cluster.bin / "pause", archive, node.PAUSE_IMAGE)
    wait_for(cluster, "containerd", "containerd listened", cluster.containerd_socket.exists)
    node.import_image(cluster, archive)


def _join_node(cluster: Cluster, addresses: Addresses, api: Api, start: Callable[[str, list[str]], None]) -> None:
    control_plane.start_scheduler(cluster, start)
    node.start_kubelet(cluster, addresses, start)
    node.start_proxy(cluster, start)
    wait_for(cluster, "kube-apiserver", "the DNS service was made", lambda: dns.announce(api, addresses.node))
    dns.start_dns(cluster, addresses, start)
    wait_for(cluster, "docker-registry", "the registry answered", lambda: registry.is_ready(addresses.node))
    wait_for(cluster, "coredns", "DNS answered", lambda: dns.is_ready(addresses.node))
    wait_for(cluster, "kubelet", "the node was Ready", lambda: api.node_is_ready(node.NODE))


def _start(cluster: Cluster, program: str, flags: list[str]) -> None:
    """Start a program through the cluster's own folder of links, or from the machine where it is a Debian package."""
    own = cluster.bin / program
    command = [str(own) if own.exists() else program, *flags]
    path = f"{cluster.bin}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    processes.start(
        cluster, program, command, lambda: cgroups.enter(cluster), {"PATH": path, "HOME": str(cluster.state)}
    )
