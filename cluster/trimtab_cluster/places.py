"""Where things lie: caches that outlive a cluster, the state of each cluster, and the repository.

Everything that a cluster owns on the machine has a name that follows from the cluster's name. So a cluster can be
removed without any record of it, which is what a crash half way leaves.
"""

import os
import re
from dataclasses import dataclass
from pathlib import Path

from trimtab_cluster.errors import ClusterError

REPOSITORY = Path(__file__).resolve().parents[2]
RUNTIME = Path("/run/trimtab")  # for the whole machine, as the names of namespaces and cgroups are

_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?")
_SOCKET_PATH_MAX = 107  # sun_path, less the closing zero
_LONGEST_SOCKET = "kubelet/pod-resources/kubelet.sock"


def cache_dir() -> Path:
    """Return the folder of what was built or fetched once."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "trimtab"


def clusters_dir() -> Path:
    """Return the folder that holds one folder for each cluster."""
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local/state") / "trimtab/clusters"


@dataclass(frozen=True, slots=True)
class Cluster:
    """A cluster by name, and the places of everything it owns.

    Raises:
        ClusterError: the name cannot be one, or the state folder lies too deep for the sockets in it.
    """

    name: str

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ClusterError(f"{self.name!r} cannot name a cluster", "use small letters, digits and inner hyphens")
        if len(str(self.state / _LONGEST_SOCKET)) > _SOCKET_PATH_MAX:
            raise ClusterError(
                f"{self.state} is too long: the path of a Unix socket ends at {_SOCKET_PATH_MAX} characters",
                "set XDG_STATE_HOME to a shorter path, or take a shorter name",
            )

    @property
    def state(self) -> Path:
        return clusters_dir() / self.name

    @property
    def bin(self) -> Path:
        """Links to the binaries: a process called through one shows by its command line whose it is."""
        return self.state / "bin"

    @property
    def etc(self) -> Path:
        return self.state / "etc"

    @property
    def log(self) -> Path:
        return self.state / "log"

    @property
    def run(self) -> Path:
        return self.state / "run"

    @property
    def kubeconfig(self) -> Path:
        return self.etc / "admin.kubeconfig"

    @property
    def namespace(self) -> str:
        """Return the name of the network namespace, of the cgroup and of the pod network."""
        return f"trimtab-{self.name}"

    @property
    def containerd_socket(self) -> Path:
        return self.run / "containerd.sock"
