"""What is built from Go modules, and how. Versions are pinned in the go.mod of each; here is what that cannot say."""

import hashlib
import re
from dataclasses import dataclass, field
from pathlib import Path

from trimtab_cluster.places import REPOSITORY

GO_SOURCES = REPOSITORY / "cluster/go"


@dataclass(frozen=True, slots=True)
class Component:
    """One Go module under cluster/go and the binaries that come of it.

    `builds` maps a file to its package, `programs` a program to the file that acts as it when called by that name,
    `tells` a program to how it is asked for its version and the Go module whose version the answer holds.
    """

    name: str
    builds: dict[str, str]
    programs: dict[str, str]
    tells: dict[str, tuple[str, str]] = field(default_factory=dict)
    tags: str = ""
    linked: tuple[str, ...] = ()
    version_of: str = ""

    @property
    def source(self) -> Path:
        return GO_SOURCES / self.name

    def version(self, module: str) -> str:
        """Return the version that go.mod pins for a module, without the leading v."""
        found = re.search(rf"^(?:require)?\s+{re.escape(module)} v(\S+)", (self.source / "go.mod").read_text(), re.M)
        return found[1] if found else ""

    def link_flags(self) -> str:
        """Return the flags of the linker: no debug tables, and the version where the program cannot know it."""
        version = self.version(self.version_of) if self.version_of else ""
        major, minor = [*version.split("."), "", ""][:2]
        facts = {"version": version, "major": major, "minor": minor}
        return " ".join(["-s", "-w", *(f"-X {variable.format(**facts)}" for variable in self.linked)])

    def digest(self) -> str:
        """Return a short hash of everything that decides what is built."""
        seen = hashlib.sha256(repr((self.builds, self.programs, self.tags, self.linked)).encode())
        for name in ("go.mod", "go.sum", "main.go"):
            file = self.source / name
            seen.update(file.read_bytes() if file.exists() else b"")
        return seen.hexdigest()[:12]


_KUBERNETES = ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy")
_VERSION = "k8s.io/component-base/version"
_CONTAINERD = "github.com/containerd/containerd/v2"

COMPONENTS = (
    Component(
        name="kubernetes",
        builds={"hyperkube": "."},
        programs=dict.fromkeys(_KUBERNETES, "hyperkube"),
        tells={"kube-apiserver": ("--version", "k8s.io/kubernetes")},
        tags="netgo,osusergo",
        version_of="k8s.io/kubernetes",
        linked=(
            f"{_VERSION}.gitVersion=v{{version}}",
            f"{_VERSION}.gitMajor={{major}}",
            f"{_VERSION}.gitMinor={{minor}}",
        ),
    ),
    Component(
        name="node",
        builds={"node": "."},
        programs={"containerd": "node", "etcd": "node"},
        tells={"containerd": ("--version", _CONTAINERD), "etcd": ("--version", "go.etcd.io/etcd/server/v3")},
        tags="netgo,osusergo,no_btrfs,no_zfs,no_devmapper,no_aufs",
    ),
    # A binary of its own: linked into `node`, the plugins of the shim collide with those of the daemon.
    Component(
        name="shim",
        builds={file: f"{_CONTAINERD}/cmd/{file}" for file in ("containerd-shim-runc-v2", "ctr")},
        programs={file: file for file in ("containerd-shim-runc-v2", "ctr")},
        tells={"containerd-shim-runc-v2": ("-v", _CONTAINERD), "ctr": ("--version", _CONTAINERD)},
        tags="netgo,osusergo",
    ),
    Component(
        name="coredns",
        builds={"coredns": "."},
        programs={"coredns": "coredns"},
        tells={"coredns": ("--version", "github.com/coredns/coredns")},
        tags="netgo,osusergo",
    ),
    Component(name="pause", builds={"pause": "."}, programs={"pause": "pause"}),
    Component(
        name="helm",
        builds={"helm": "helm.sh/helm/v4/cmd/helm"},
        programs={"helm": "helm"},
        tells={"helm": ("version", "helm.sh/helm/v4")},
        tags="netgo,osusergo",
        version_of="helm.sh/helm/v4",
        linked=("helm.sh/helm/v4/internal/version.version=v{version}",),
    ),
    # Asks an HTTP/2 server what the standard asks of one: for tests of the model server.
    Component(
        name="h2spec",
        builds={"h2spec": "github.com/summerwind/h2spec/cmd/h2spec"},
        programs={"h2spec": "h2spec"},
    ),
)

FOR_APISERVER = ("kubernetes", "node")
FOR_NODE = (*FOR_APISERVER, "shim", "coredns", "pause")


def component(name: str) -> Component:
    """Return a component by name."""
    return next(component for component in COMPONENTS if component.name == name)
