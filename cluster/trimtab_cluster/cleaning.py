"""Removal of everything a cluster owns, from whatever is there: no record is needed, so a crash half way is no matter.

Nothing is stopped gently. The state goes with the cluster, and the API server's graceful stop takes a minute.
"""

import os
import re
import shutil
import subprocess
from contextlib import suppress
from pathlib import Path

from trimtab_cluster import cgroups, kernel, network, node
from trimtab_cluster.errors import ClusterError
from trimtab_cluster.places import Cluster
from trimtab_cluster.processes import components, kill, recorded, strays

_CNI_RESULTS = Path("/var/lib/cni/results")
_POD_LOG_LINKS = Path("/var/log/containers")


def remove(cluster: Cluster) -> None:
    """End the cluster's processes and remove its mounts, links, namespaces, cgroups and files.

    Raises:
        ClusterError: something would not go.
    """
    kill(pid for name in components(cluster) if (pid := recorded(cluster, name)))
    cgroups.remove(cluster)
    kill(strays(cluster))
    _unmount(cluster)
    network.remove(cluster)
    _remove_traces_elsewhere(cluster)
    shutil.rmtree(cluster.state, ignore_errors=True)
    kernel.restore(cluster)
    if left := leftovers(cluster):
        raise ClusterError(f"of {cluster.name!r} these are left: {', '.join(left)}", "run `down` again")


def leftovers(cluster: Cluster) -> list[str]:
    """Return what is there of a cluster: empty after `down`."""
    outer, _ = network.link_names(cluster)
    named = [cluster.state, Path(f"/run/netns/{cluster.namespace}"), Path(f"/sys/class/net/{outer}")]
    found = [str(path) for path in (*named, node.shim_sockets(cluster), *_traces(cluster)) if os.path.lexists(path)]
    found += [f"mount {path}" for path in mounts(cluster)]
    found += [f"cgroup {path}" for path in cgroups.folders(cluster) if path.exists()]
    return found + [f"process {pid}" for pid in sorted(strays(cluster) | cgroups.members(cluster))]


def mounts(cluster: Cluster) -> list[str]:
    """Return the mounts under the cluster's state, the innermost first."""
    lines = Path("/proc/self/mounts").read_text().splitlines()
    places = (re.sub(r"\\(\d{3})", lambda code: chr(int(code[1], 8)), line.split()[1]) for line in lines)
    return [place for place in places if place.startswith(f"{cluster.state}/")][::-1]


def _unmount(cluster: Cluster) -> None:
    if places := mounts(cluster):
        subprocess.run(["umount", "--lazy", *places], check=False, capture_output=True)


def _remove_traces_elsewhere(cluster: Cluster) -> None:
    shutil.rmtree(node.shim_sockets(cluster), ignore_errors=True)
    for path in _traces(cluster):
        with suppress(FileNotFoundError):
            path.unlink()


def _traces(cluster: Cluster) -> list[Path]:
    """Return what the CNI library and the kubelet put at fixed paths: cached results, and links to logs of pods."""
    result = re.compile(rf"{re.escape(cluster.namespace)}-[0-9a-f]{{64}}-.*")
    results = [path for path in _listed(_CNI_RESULTS) if result.fullmatch(path.name)]
    links = (path for path in _listed(_POD_LOG_LINKS) if path.is_symlink())
    return results + [path for path in links if str(path.readlink()).startswith(f"{cluster.state}/")]


def _listed(folder: Path) -> list[Path]:
    return list(folder.iterdir()) if folder.is_dir() else []
