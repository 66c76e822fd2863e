"""Configuration files and command lines of the components: pure functions of a cluster and its address."""

from trimtab_cluster.places import Cluster

REGISTRY_NAME = "registry.local:5000"
_SERVICES = "10.96.0.0/16"
_PODS = "10.244.0.0/16"
DNS_ADDRESS = "10.96.0.10"


def etcd(cluster: Cluster) -> list[str]:
    """Return etcd's command. Its data need not survive the machine, so it does not wait for the disk."""
    client, peer = "http://127.0.0.1:2379", "http://127.0.0.1:2380"
    urls = ["--listen-client-urls", client, "--advertise-client-urls", client, "--listen-peer-urls", peer]
    return ["etcd", "--data-dir", f"{cluster.state}/etcd", "--unsafe-no-fsync", *urls]


def apiserver(cluster: Cluster, node: str) -> list[str]:
    """Return the API server's command; every request is written to the audit log at the level of its metadata."""
    etc = cluster.etc
    return [
        "kube-apiserver",
        "--etcd-servers=http://127.0.0.1:2379",
        "--secure-port=6443",
        f"--advertise-address={node}",
        f"--tls-cert-file={etc}/apiserver.crt",
        f"--tls-private-key-file={etc}/apiserver.key",
        f"--client-ca-file={etc}/ca.crt",
        f"--service-account-key-file={etc}/sa.key",
        f"--service-account-signing-key-file={etc}/sa.key",
        "--service-account-issuer=https://kubernetes.default.svc",
        "--authorization-mode=Node,RBAC",
        "--enable-admission-plugins=NodeRestriction",
        f"--service-cluster-ip-range={_SERVICES}",
        f"--kubelet-client-certificate={etc}/admin.crt",
        f"--kubelet-client-key={etc}/admin.key",
        "--kubelet-preferred-address-types=InternalIP",
        "--allow-privileged",
        f"--audit-policy-file={etc}/audit.yaml",
        f"--audit-log-path={cluster.log}/audit.log",
        "--audit-log-maxsize=0",
    ]


def controller_manager(cluster: Cluster) -> list[str]:
    etc = cluster.etc
    return [
        "kube-controller-manager",
        f"--kubeconfig={etc}/controller-manager.kubeconfig",
        f"--service-account-private-key-file={etc}/sa.key",
        f"--root-ca-file={etc}/ca.crt",
        "--use-service-account-credentials",
        "--leader-elect=false",
    ]


def scheduler(cluster: Cluster) -> list[str]:
    return ["kube-scheduler", f"--kubeconfig={cluster.etc}/scheduler.kubeconfig", "--leader-elect=false"]


def kubelet(cluster: Cluster, node: str) -> list[str]:
    return [
        "kubelet",
        f"--config={cluster.etc}/kubelet.yaml",
        f"--kubeconfig={cluster.etc}/kubelet.kubeconfig",
        "--hostname-override=node1",
        f"--node-ip={node}",
        f"--root-dir={cluster.state}/kubelet",
    ]


def files(cluster: Cluster, node: str) -> dict[str, str]:
    """Return every configuration file by its path below `etc`."""
    return {
        "audit.yaml": "apiVersion: audit.k8s.io/v1\nkind: Policy\nomitStages: [RequestReceived]\n"
        "rules: [{level: Metadata}]\n",
        "registry.yaml": _registry(cluster, node),
        f"certs.d/{REGISTRY_NAME}/hosts.toml": _hosts(node),
        "cni/10-bridge.conflist": _CNI,
        "containerd.toml": _containerd(cluster),
        "kubelet.yaml": _kubelet(cluster),
        "proxy.yaml": _proxy(cluster),
        "Corefile": _corefile(cluster, node),
        "dns.yaml": _dns_objects(node),
    }


def _registry(cluster: Cluster, node: str) -> str:
    return f"""version: 0.1
storage: {{filesystem: {{rootdirectory: {cluster.state}/registry}}, delete: {{enabled: true}}}}
http: {{addr: "{node}:5000"}}
log: {{level: warn}}
"""


def _hosts(node: str) -> str:
    return f"""server = "http://{node}:5000"
[host."http://{node}:5000"]
capabilities = ["pull", "resolve"]
"""


_CNI = """{"cniVersion": "1.0.0", "name": "pods", "plugins": [{"type": "bridge", "bridge": "cni0", "isGateway": true,
"hairpinMode": true, "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.244.0.0/24"}]],
"dataDir": "STATE/cni", "routes": [{"dst": "0.0.0.0/0"}]}}]}
"""


def _containerd(cluster: Cluster) -> str:
    # restrict_oom_score_adj: without CAP_SYS_RESOURCE runc cannot lower oom_score_adj for the sandbox and dies.
    # netns_mounts_under_state_dir: the namespaces of pods are this cluster's own, so `down` removes no others.
    return f"""version = 3
root = "{cluster.state}/cri/root"
state = "{cluster.state}/cri/state"
[grpc]
address = "{cluster.containerd_socket}"
[plugins."io.containerd.cri.v1.runtime"]
restrict_oom_score_adj = true
netns_mounts_under_state_dir = true
[plugins."io.containerd.cri.v1.runtime".cni]
bin_dirs = ["/usr/lib/cni"]
conf_dir = "{cluster.etc}/cni"
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.cri.v1.images"]
max_concurrent_downloads = 6
[plugins."io.containerd.cri.v1.images".pinned_images]
sandbox = "localhost/pause:1"
[plugins."io.containerd.cri.v1.images".registry]
config_path = "{cluster.etc}/certs.d"
"""


def _kubelet(cluster: Cluster) -> str:
    return f"""apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
address: 0.0.0.0
authentication: {{x509: {{clientCAFile: {cluster.etc}/ca.crt}}, webhook: {{enabled: true}}}}
authorization: {{mode: Webhook}}
cgroupDriver: cgroupfs
cgroupRoot: /{cluster.namespace}
failCgroupV1: false
failSwapOn: false
containerRuntimeEndpoint: unix://{cluster.containerd_socket}
tlsCertFile: {cluster.etc}/kubelet.crt
tlsPrivateKeyFile: {cluster.etc}/kubelet.key
resolvConf: /dev/null
clusterDomain: cluster.local
clusterDNS: [{DNS_ADDRESS}]
podLogsDir: {cluster.state}/podlogs
serializeImagePulls: false
# The disk is the machine's, not the node's: how full it is says nothing about this cluster.
evictionHard: {{memory.available: 100Mi}}
imageGCHighThresholdPercent: 100
"""


def _proxy(cluster: Cluster) -> str:
    return f"""apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
clientConnection: {{kubeconfig: {cluster.etc}/proxy.kubeconfig}}
mode: nftables
clusterCIDR: {_PODS}
conntrack: {{maxPerCore: 0}}
nftables: {{syncPeriod: 30s, minSyncPeriod: 100ms}}
"""


def _corefile(cluster: Cluster, node: str) -> str:
    return f""".:53 {{
    bind {node}
    errors
    health {node}:8053
    hosts {{
        {node} registry.local
        fallthrough
    }}
    kubernetes cluster.local in-addr.arpa {{
        kubeconfig {cluster.etc}/dns.kubeconfig
        ttl 5
    }}
}}
"""


def _dns_objects(node: str) -> str:
    """Return the Service of cluster DNS. Its server runs beside the node's components, so its endpoint is the node."""
    return f"""apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {{name: trimtab:dns}}
rules:
- {{apiGroups: [""], resources: [services, namespaces, pods, endpoints], verbs: [list, watch]}}
- {{apiGroups: [discovery.k8s.io], resources: [endpointslices], verbs: [list, watch]}}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {{name: trimtab:dns}}
roleRef: {{apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: trimtab:dns}}
subjects: [{{kind: User, name: trimtab:dns, apiGroup: rbac.authorization.k8s.io}}]
---
apiVersion: v1
kind: Service
metadata: {{name: kube-dns, namespace: kube-system, labels: {{k8s-app: kube-dns}}}}
spec:
  clusterIP: {DNS_ADDRESS}
  ports: [{{name: dns, port: 53, protocol: UDP}}, {{name: dns-tcp, port: 53, protocol: TCP}}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: kube-dns-node, namespace: kube-system, labels: {{kubernetes.io/service-name: kube-dns}}}}
addressType: IPv4
ports: [{{name: dns, port: 53, protocol: UDP}}, {{name: dns-tcp, port: 53, protocol: TCP}}]
endpoints: [{{addresses: ["{node}"], conditions: {{ready: true}}}}]
"""
