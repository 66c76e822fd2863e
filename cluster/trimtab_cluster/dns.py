"""Cluster DNS: CoreDNS as a process on the node, behind the Service kube-dns at its usual address.

It knows the services of the cluster and the registry's name, and nothing of the world: there is no way out anyhow.
"""

from collections.abc import Callable
from typing import Any

from trimtab_cluster.api import Api
from trimtab_cluster.network import Addresses
from trimtab_cluster.places import Cluster
from trimtab_cluster.registry import NAME
from trimtab_cluster.waiting import answers

ADDRESS = "10.96.0.10"
DOMAIN = "cluster.local"
_READY_PORT = 8181


def start_dns(cluster: Cluster, addresses: Addresses, start: Callable[[str, list[str]], None]) -> None:
    """Start CoreDNS."""
    file = cluster.etc / "Corefile"
    file.write_text(corefile(cluster, addresses.node))
    start("coredns", [f"-conf={file}"])


def is_ready(node: str) -> bool:
    """Tell whether CoreDNS has read the services and answers."""
    return answers(f"http://{node}:{_READY_PORT}/ready")


def corefile(cluster: Cluster, node: str) -> str:
    """Return CoreDNS's configuration. No cache: the answers are in its memory, and a test wants the newest."""
    return f"""\
.:53 {{
    errors
    ready :{_READY_PORT}
    hosts {{
        {node} {NAME}
        fallthrough
    }}
    kubernetes {DOMAIN} in-addr.arpa ip6.arpa {{
        kubeconfig {cluster.etc}/coredns.kubeconfig
        ttl 1
    }}
}}
"""


def announce(api: Api, node: str) -> bool:
    """Make the Service, its endpoint and what CoreDNS may read; tell whether all of it was accepted."""
    return all(api.apply(path, resource) for path, resource in resources(node).items())


def resources(node: str) -> dict[str, dict[str, Any]]:
    """Return the resources by their paths. The Service has no selector: its one endpoint is the node."""
    ports = [{"name": f"dns-{protocol.lower()}", "port": 53, "protocol": protocol} for protocol in ("UDP", "TCP")]
    rbac = "/apis/rbac.authorization.k8s.io/v1"
    return {
        "/api/v1/namespaces/kube-system/services/kube-dns": {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": "kube-dns"},
            "spec": {"clusterIP": ADDRESS, "ports": ports},
        },
        "/apis/discovery.k8s.io/v1/namespaces/kube-system/endpointslices/kube-dns": {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {"name": "kube-dns", "labels": {"kubernetes.io/service-name": "kube-dns"}},
            "addressType": "IPv4",
            "endpoints": [{"addresses": [node], "conditions": {"ready": True}}],
            "ports": ports,
        },
        f"{rbac}/clusterroles/trimtab:dns": {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRole",
            "metadata": {"name": "trimtab:dns"},
            "rules": [
                {"apiGroups": [""], "resources": ["services", "pods", "namespaces"], "verbs": ["list", "watch"]},
                {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["list", "watch"]},
            ],
        },
        f"{rbac}/clusterrolebindings/trimtab:dns": {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRoleBinding",
            "metadata": {"name": "trimtab:dns"},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "trimtab:dns"},
            "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "trimtab:dns"}],
        },
    }
