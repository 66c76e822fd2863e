"""The network namespace of a cluster and the pair of links between it and the machine. There is no way out of it.

Each cluster has a /30 of its own, so that clusters run side by side; everything else (pods, services, the node's
ports) is inside the namespace and the same in all of them.
"""

import hashlib
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from trimtab_cluster.errors import ClusterError
from trimtab_cluster.locks import locked
from trimtab_cluster.places import RUNTIME, Cluster

_SLOTS = 16384  # /30 networks in 198.18.0.0/16, half of the range for tests between hosts (RFC 2544)


@dataclass(frozen=True, slots=True)
class Addresses:
    """Both ends of the pair of links."""

    host: str
    node: str


def addresses_of(slot: int) -> Addresses:
    """Return both ends of a slot's /30."""
    third, fourth = divmod(slot * 4, 256)
    return Addresses(host=f"198.18.{third}.{fourth + 1}", node=f"198.18.{third}.{fourth + 2}")


def free_slot(taken: Iterable[str]) -> int:
    """Return the first slot of whose /30 the machine has no address."""
    used = set(taken)
    for slot in range(_SLOTS):
        pair = addresses_of(slot)
        if not {pair.host, pair.node} & used:
            return slot
    raise ClusterError("no /30 in 198.18.0.0/16 is free", "remove clusters that are not needed: down --all")


def link_names(cluster: Cluster) -> tuple[str, str]:
    """Return the names of the two ends: at most 15 characters, so a hash stands for the cluster."""
    short = hashlib.sha256(str(cluster.state).encode()).hexdigest()[:10]
    return f"tt{short}h", f"tt{short}n"


def create(cluster: Cluster) -> Addresses:
    """Make namespace and links. A lock keeps two clusters that start together from taking one address."""
    outer, inner = link_names(cluster)
    with locked(RUNTIME / ".addresses.lock"):
        addresses = addresses_of(free_slot(_host_addresses()))
        _ip("netns", "add", cluster.namespace)
        _ip("link", "add", outer, "type", "veth", "peer", "name", inner, "netns", cluster.namespace)
        _ip("addr", "add", f"{addresses.host}/30", "dev", outer)
        _ip("link", "set", outer, "up")
    _ip("-n", cluster.namespace, "addr", "add", f"{addresses.node}/30", "dev", inner)
    _ip("-n", cluster.namespace, "link", "set", inner, "up")
    _ip("-n", cluster.namespace, "link", "set", "lo", "up")
    inside = ["nsenter", f"--net=/run/netns/{cluster.namespace}"]
    subprocess.run([*inside, "sysctl", "-qw", "net.ipv4.ip_forward=1"], check=True)
    return addresses


def remove(cluster: Cluster) -> None:
    """Remove what is there of namespace and links."""
    outer, _ = link_names(cluster)
    if Path(f"/sys/class/net/{outer}").exists():
        subprocess.run(["ip", "link", "del", outer], check=False)
    if Path(f"/run/netns/{cluster.namespace}").exists():
        subprocess.run(["ip", "netns", "del", cluster.namespace], check=False)


def _host_addresses() -> list[str]:
    listed = subprocess.run(["ip", "-o", "-4", "addr"], check=True, capture_output=True, text=True).stdout
    return [line.split()[3].partition("/")[0] for line in listed.splitlines()]


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True)
