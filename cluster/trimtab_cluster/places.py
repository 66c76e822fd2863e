"""Where things lie: caches that outlive a cluster, the state of each cluster, and the repository."""

import os
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]


def cache_dir() -> Path:
    """Return the folder of what was built or fetched once."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "trimtab"


def clusters_dir() -> Path:
    """Return the folder that holds one folder for each cluster."""
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local/state") / "trimtab/clusters"


@dataclass(frozen=True, slots=True)
class Cluster:
    """A cluster by name; everything it owns on this machine can be told from here."""

    name: str

    @property
    def state(self) -> Path:
        return clusters_dir() / self.name

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
        """Return the name of the network namespace."""
        return f"trimtab-{self.name}"

    @property
    def containerd_socket(self) -> Path:
        return self.run / "containerd.sock"
