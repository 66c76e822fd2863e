"""Up and down: the components in the order in which they need each other, and the way back to nothing."""

import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from trimtab_cluster import cgroups, configs, network, pki, processes
from trimtab_cluster.binaries import ensure_binaries
from trimtab_cluster.pause_image import pause_archive
from trimtab_cluster.places import Cluster
from trimtab_cluster.say import say

_WAIT_SECONDS = 90


class NotUp(RuntimeError):
    """A component did not come up; the text ends with the last lines of its log."""


def up(cluster: Cluster, apiserver_only: bool = False, controllers: bool = False) -> None:
    """Start a cluster. One of that name that is up is left alone; the rest of one that crashed is removed first."""
    if is_up(cluster):
        say(f"cluster {cluster.name} is up already")
        return
    binaries = ensure_binaries()
    down(cluster)
    for folder in (cluster.etc, cluster.log, cluster.run):
        folder.mkdir(parents=True)
    addresses = network.create(cluster)
    pki.make_pki(cluster.etc, addresses.node)
    _write_files(cluster, addresses.node)
    starter = _Starter(cluster, binaries, addresses.node)
    starter.control_plane(controllers or not apiserver_only)
    if not apiserver_only:
        starter.node()
    description = {"node": addresses.node, "apiserverOnly": apiserver_only, "binaries": str(binaries)}
    (cluster.state / "cluster.json").write_text(json.dumps(description))
    say(f"cluster {cluster.name} is up; KUBECONFIG={cluster.kubeconfig}")


def down(cluster: Cluster) -> None:
    """Remove everything that belongs to a cluster, whatever state it is in."""
    if not (cluster.state.exists() or Path(f"/run/netns/{cluster.namespace}").exists()):
        return
    # The kubelet first, lest it starts again what we end; then pods with their cgroup, which no shim holds back.
    _stop(cluster, "kubelet", "proxy", "scheduler", "controller-manager", "registry", "dns", seconds=3)
    cgroups.remove(cluster)
    _stop(cluster, "containerd", seconds=3)
    # A graceful stop takes the API server a minute, and nothing of it is to be kept.
    processes.kill(processes.strays(cluster))
    _unmount(cluster.state)
    network.remove(cluster)
    shutil.rmtree(cluster.state, ignore_errors=True)
    say(f"cluster {cluster.name} is down")


def is_up(cluster: Cluster) -> bool:
    """Tell whether a cluster was brought up and its API server still runs."""
    return (cluster.state / "cluster.json").exists() and processes.recorded(cluster, "apiserver") is not None


def node_address(cluster: Cluster) -> str:
    """Return the address of the node, which is reached from this machine alone."""
    return str(json.loads((cluster.state / "cluster.json").read_text())["node"])


class _Starter:
    """Starts components with the cluster's programs first on the path."""

    def __init__(self, cluster: Cluster, binaries: Path, node: str) -> None:
        self._cluster = cluster
        self._binaries = binaries
        self._node = node
        self._environment = {**os.environ, "PATH": f"{binaries}:{os.environ['PATH']}:/usr/sbin:/sbin"}

    def control_plane(self, controllers: bool) -> None:
        cluster = self._cluster
        self._start("etcd", configs.etcd(cluster))
        self._start("apiserver", configs.apiserver(cluster, self._node))
        self._wait("apiserver", lambda: self._kubectl("get", "--raw", "/readyz"))
        if controllers:
            self._start("controller-manager", configs.controller_manager(cluster))
            # A namespace without its service account admits no pods.
            self._wait("controller-manager", lambda: self._kubectl("get", "serviceaccount", "default"))

    def node(self) -> None:
        cluster, etc = self._cluster, self._cluster.etc
        cgroups.create(cluster)
        self._start("scheduler", configs.scheduler(cluster))
        self._start("registry", ["docker-registry", "serve", f"{etc}/registry.yaml"])
        self._start("containerd", ["containerd", "-c", f"{etc}/containerd.toml"])
        self._wait("containerd", lambda: self._ctr("version"))
        self._ctr("-n", "k8s.io", "images", "import", str(pause_archive(self._binaries)))
        self._start("kubelet", configs.kubelet(cluster, self._node))
        self._start("proxy", ["kube-proxy", f"--config={etc}/proxy.yaml", "--hostname-override=node1"])
        self._start("dns", ["coredns", "-conf", f"{etc}/Corefile"])
        self._kubectl("apply", "-f", f"{etc}/dns.yaml")
        ready = ("wait", "--for=condition=Ready", "node/node1", "--timeout=1s")
        self._wait("kubelet", lambda: self._kubectl(*ready))

    def _start(self, name: str, command: Sequence[str]) -> None:
        processes.start(self._cluster, name, command, self._environment)

    def _kubectl(self, *arguments: str) -> bool:
        return self._succeeds("kubectl", "--kubeconfig", str(self._cluster.kubeconfig), *arguments)

    def _ctr(self, *arguments: str) -> bool:
        return self._succeeds("ctr", "-a", str(self._cluster.containerd_socket), *arguments)

    def _succeeds(self, *command: str) -> bool:
        program = str(self._binaries / command[0])
        return subprocess.run([program, *command[1:]], capture_output=True, env=self._environment).returncode == 0

    def _wait(self, name: str, ready: Callable[[], bool]) -> None:
        deadline = time.monotonic() + _WAIT_SECONDS
        while not ready():
            if processes.recorded(self._cluster, name) is None or time.monotonic() > deadline:
                raise NotUp(f"{name} did not come up:\n{_tail(self._cluster.log / f'{name}.log')}")
            time.sleep(0.1)


def _write_files(cluster: Cluster, node: str) -> None:
    for path, content in configs.files(cluster, node).items():
        target = cluster.etc / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(content.replace("STATE", str(cluster.state)))


def _stop(cluster: Cluster, *names: str, seconds: float) -> None:
    found = (processes.recorded(cluster, name) for name in names)
    processes.stop([pid for pid in found if pid], seconds)


def _unmount(folder: Path) -> None:
    mounts = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
    for mount in sorted((path for path in mounts if path.startswith(f"{folder}/")), reverse=True):
        subprocess.run(["umount", "-l", mount], check=False)


def _tail(log: Path, lines: int = 15) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:]) if log.exists() else ""
