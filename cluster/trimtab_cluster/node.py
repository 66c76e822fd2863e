"""The node: containerd, kubelet and kube-proxy, configured so that nothing of theirs lies outside the cluster's places.

The defaults of all three write to fixed paths of the machine (/run/containerd, /var/lib/cni, /var/lib/kubelet), which
two clusters would share and `down` could not remove.
"""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

from trimtab_cluster import dns
from trimtab_cluster.network import Addresses
from trimtab_cluster.places import RUNTIME, Cluster

Start = Callable[[str, list[str]], None]

NODE = "node1"
PAUSE_IMAGE = "localhost/pause:1"
_PODS = "10.244.0.0/24"


def start_containerd(cluster: Cluster, start: Start) -> None:
    """Start the container runtime with the network of the pods."""
    (cluster.etc / "cni").mkdir()
    (cluster.etc / "cni/10-pods.conflist").write_text(json.dumps(pod_network(cluster), indent=2))
    (cluster.etc / "containerd.toml").write_text(containerd_config(cluster))
    start("containerd", [f"--config={cluster.etc}/containerd.toml"])


def start_kubelet(cluster: Cluster, addresses: Addresses, start: Start) -> None:
    """Start the kubelet."""
    (cluster.etc / "kubelet.json").write_text(json.dumps(kubelet_config(cluster), indent=2))
    start(
        "kubelet",
        [
            f"--config={cluster.etc}/kubelet.json",
            f"--kubeconfig={cluster.etc}/kubelet.kubeconfig",
            f"--hostname-override={NODE}",
            f"--node-ip={addresses.node}",
            f"--root-dir={cluster.state}/kubelet",
            f"--cert-dir={cluster.state}/kubelet/pki",
        ],
    )


def start_proxy(cluster: Cluster, start: Start) -> None:
    """Start the proxy of the services."""
    (cluster.etc / "kube-proxy.json").write_text(json.dumps(proxy_config(cluster), indent=2))
    start("kube-proxy", [f"--config={cluster.etc}/kube-proxy.json", f"--hostname-override={NODE}"])


def shim_sockets(cluster: Cluster) -> Path:
    """Return the folder of the shims' sockets: short, as their names take 64 of the 107 characters there are."""
    return RUNTIME / cluster.name


def pod_network(cluster: Cluster) -> dict[str, Any]:
    """Return the network of the pods: routed links, so that services need no bridge netfilter in the kernel."""
    addresses = {
        "type": "host-local",
        "dataDir": f"{cluster.state}/cni",
        "ranges": [[{"subnet": _PODS}]],
        "routes": [{"dst": "0.0.0.0/0"}],
    }
    return {"cniVersion": "1.0.0", "name": cluster.namespace, "plugins": [{"type": "ptp", "ipam": addresses}]}


def containerd_config(cluster: Cluster) -> str:
    """Return containerd's configuration.

    restrict_oom_score_adj: without CAP_SYS_RESOURCE runc cannot lower oom_score_adj for the sandbox and dies with
    "can't get final child's PID from pipe: EOF". The network namespaces of the pods are mounted under the state
    folder, so `down` removes this cluster's and no other's.
    """
    return f"""\
version = 4
imports = []
root = "{cluster.state}/cri/root"
state = "{cluster.state}/cri/state"
temp = "{cluster.state}/cri/temp"

[plugins."io.containerd.server.v1.grpc"]
address = "{cluster.containerd_socket}"
[plugins."io.containerd.server.v1.ttrpc"]
address = "{cluster.containerd_socket}.ttrpc"
[plugins."io.containerd.shim.v1.manager"]
socket_dir = "{shim_sockets(cluster)}"
[plugins."io.containerd.internal.v1.opt"]
path = "{cluster.state}/cri/opt"
[plugins."io.containerd.nri.v1.nri"]
disable = true
[plugins."io.containerd.metadata.v1.bolt"]
no_sync = true

[plugins."io.containerd.cri.v1.images".pinned_images]
sandbox = "{PAUSE_IMAGE}"
[plugins."io.containerd.cri.v1.images".registry]
config_path = "{cluster.etc}/certs.d"

[plugins."io.containerd.cri.v1.runtime"]
restrict_oom_score_adj = true
netns_mounts_under_state_dir = true
[plugins."io.containerd.cri.v1.runtime".cni]
bin_dirs = ["/usr/lib/cni"]
conf_dir = "{cluster.etc}/cni"
use_internal_loopback = true
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc.options]
Root = "{cluster.state}/cri/runc"
"""


def kubelet_config(cluster: Cluster) -> dict[str, Any]:
    """Return the kubelet's configuration: pods in the cluster's own cgroup, none evicted from a well-filled disk."""
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": "0.0.0.0",
        "authentication": {"x509": {"clientCAFile": f"{cluster.etc}/ca.crt"}, "webhook": {"enabled": True}},
        "authorization": {"mode": "Webhook"},
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": f"/{cluster.namespace}",
        "failCgroupV1": False,
        "failSwapOn": False,
        "containerRuntimeEndpoint": f"unix://{cluster.containerd_socket}",
        "tlsCertFile": f"{cluster.etc}/kubelet.crt",
        "tlsPrivateKeyFile": f"{cluster.etc}/kubelet.key",
        "resolvConf": "/dev/null",
        "clusterDNS": [dns.ADDRESS],
        "clusterDomain": dns.DOMAIN,
        "podLogsDir": f"{cluster.state}/podlogs",
        "volumePluginDir": f"{cluster.state}/kubelet/volume-plugins",
        "makeIPTablesUtilChains": False,
        "serializeImagePulls": False,
        "evictionHard": {"memory.available": "100Mi", "nodefs.available": "1%", "imagefs.available": "1%"},
        "imageGCHighThresholdPercent": 99,
        "imageGCLowThresholdPercent": 98,
    }


def proxy_config(cluster: Cluster) -> dict[str, Any]:
    """Return the proxy's configuration; connection tracking is the machine's to size."""
    return {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "clientConnection": {"kubeconfig": f"{cluster.etc}/kube-proxy.kubeconfig"},
        "mode": "nftables",
        "clusterCIDR": _PODS,
        "conntrack": {"maxPerCore": 0},
    }


def import_image(cluster: Cluster, archive: Path) -> None:
    """Give an image to containerd."""
    client = [str(cluster.bin / "ctr"), "-a", str(cluster.containerd_socket), "-n", "k8s.io"]
    subprocess.run([*client, "images", "import", str(archive)], check=True, capture_output=True)
