"""A real OCI registry for images and artifacts, on port 5000 of the node; inside the cluster registry.local:5000."""

import json
from collections.abc import Callable

from trimtab_cluster.network import Addresses
from trimtab_cluster.places import Cluster
from trimtab_cluster.waiting import answers

NAME = "registry.local"
PORT = 5000


def configure(cluster: Cluster, addresses: Addresses) -> str:
    """Write the configuration of the registry and how containerd reaches it; return the path of the former."""
    file = cluster.etc / "registry.json"
    file.write_text(json.dumps(registry_config(cluster, addresses.node), indent=2))
    hosts = cluster.etc / f"certs.d/{NAME}:{PORT}/hosts.toml"
    hosts.parent.mkdir(parents=True)
    hosts.write_text(hosts_toml(addresses.node))
    return str(file)


def start_registry(cluster: Cluster, addresses: Addresses, start: Callable[[str, list[str]], None]) -> None:
    """Start the registry."""
    start("docker-registry", ["serve", configure(cluster, addresses)])


def is_ready(node: str) -> bool:
    """Tell whether the registry answers."""
    return answers(f"http://{node}:{PORT}/v2/")


def registry_config(cluster: Cluster, node: str) -> dict[str, object]:
    """Return the registry's configuration: storage in the cluster's state, deletion allowed, every request logged."""
    return {
        "version": "0.1",
        "storage": {"filesystem": {"rootdirectory": f"{cluster.state}/registry"}, "delete": {"enabled": True}},
        "http": {"addr": f"{node}:{PORT}", "secret": "one process, so nothing to share"},
        "log": {"level": "warn"},
    }


def hosts_toml(node: str) -> str:
    """Return containerd's way to the registry: by address and without TLS."""
    return f'server = "http://{node}:{PORT}"\n[host."http://{node}:{PORT}"]\ncapabilities = ["pull", "resolve"]\n'
