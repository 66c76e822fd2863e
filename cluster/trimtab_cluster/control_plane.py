"""etcd, the API server and, where wanted, controllers and scheduler."""

import json
from collections.abc import Callable

from trimtab_cluster.network import Addresses
from trimtab_cluster.places import Cluster
from trimtab_cluster.state import Shape

Start = Callable[[str, list[str]], None]

SERVICE_NETWORK = "10.96.0.0/16"


def start_etcd(cluster: Cluster, start: Start) -> None:
    """Start etcd. It need not survive a power cut, so it does not sync, which is most of its time."""
    clients = "http://127.0.0.1:2379"
    start(
        "etcd",
        [
            f"--data-dir={cluster.state}/etcd",
            "--unsafe-no-fsync",
            f"--listen-client-urls={clients}",
            f"--advertise-client-urls={clients}",
            "--listen-peer-urls=http://127.0.0.1:2380",
            "--log-level=warn",
        ],
    )


def start_apiserver(cluster: Cluster, addresses: Addresses, shape: Shape, start: Start) -> None:
    """Start the API server."""
    etc = cluster.etc
    flags = [
        "--etcd-servers=http://127.0.0.1:2379",
        "--secure-port=6443",
        f"--advertise-address={addresses.node}",
        f"--tls-cert-file={etc}/kube-apiserver.crt",
        f"--tls-private-key-file={etc}/kube-apiserver.key",
        f"--client-ca-file={etc}/ca.crt",
        f"--service-account-key-file={etc}/sa.key",
        f"--service-account-signing-key-file={etc}/sa.key",
        "--service-account-issuer=https://kubernetes.default.svc",
        f"--service-cluster-ip-range={SERVICE_NETWORK}",
        "--authorization-mode=Node,RBAC",
        "--enable-admission-plugins=NodeRestriction",
        f"--kubelet-client-certificate={etc}/admin.crt",
        f"--kubelet-client-key={etc}/admin.key",
        "--kubelet-preferred-address-types=InternalIP",
        "--allow-privileged",
    ]
    if not shape.controllers:
        # Without its controller no namespace has a service account, and no pod could be made.
        flags.append("--disable-admission-plugins=ServiceAccount")
    if shape.audit:
        flags += _audit(cluster)
    start("kube-apiserver", flags)


def start_controllers(cluster: Cluster, start: Start) -> None:
    """Start the controllers: garbage collection, Deployments, Jobs, service accounts, namespaces."""
    etc = cluster.etc
    start(
        "kube-controller-manager",
        [
            f"--kubeconfig={etc}/kube-controller-manager.kubeconfig",
            f"--service-account-private-key-file={etc}/sa.key",
            f"--root-ca-file={etc}/ca.crt",
            "--use-service-account-credentials",
            "--leader-elect=false",
        ],
    )


def start_scheduler(cluster: Cluster, start: Start) -> None:
    """Start the scheduler."""
    start("kube-scheduler", [f"--kubeconfig={cluster.etc}/kube-scheduler.kubeconfig", "--leader-elect=false"])


def _audit(cluster: Cluster) -> list[str]:
    policy = {"apiVersion": "audit.k8s.io/v1", "kind": "Policy", "rules": [{"level": "Metadata"}]}
    file = cluster.etc / "audit-policy.json"
    file.write_text(json.dumps(policy))
    return [f"--audit-policy-file={file}", f"--audit-log-path={cluster.log}/audit.log", "--audit-log-mode=blocking"]
