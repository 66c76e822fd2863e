"""What is known of a cluster beyond its name: written when it has come up, read by every other command."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from trimtab_cluster.errors import ClusterError
from trimtab_cluster.locks import locked
from trimtab_cluster.places import RUNTIME, Cluster, clusters_dir


@dataclass(frozen=True, slots=True)
class Shape:
    """What was asked of `up`."""

    node: bool
    controllers: bool
    audit: bool


@dataclass(frozen=True, slots=True)
class Record:
    """A cluster that came up. The addresses are the node's and that of the machine as the node sees it."""

    shape: Shape
    node: str
    host: str


def write(cluster: Cluster, record: Record) -> None:
    """Record that a cluster has come up."""
    (cluster.state / "cluster.json").write_text(json.dumps(asdict(record), indent=2) + "\n")


def read(cluster: Cluster) -> Record | None:
    """Return the record of a cluster, or None where it never came up."""
    try:
        fields = json.loads((cluster.state / "cluster.json").read_text())
    except FileNotFoundError:
        return None
    return Record(**{**fields, "shape": Shape(**fields["shape"])})


def require(cluster: Cluster) -> Record:
    """Return the record of a cluster.

    Raises:
        ClusterError: it never came up.
    """
    record = read(cluster)
    if record is None:
        raise ClusterError(
            f"there is no cluster {cluster.name!r}", f"python3 -m trimtab_cluster up --name {cluster.name}"
        )
    return record


def all_clusters() -> list[Cluster]:
    """Return every cluster of this user: those with a state folder, and those whose folder somebody removed by hand."""
    with_state = {folder.name for folder in clusters_dir().glob("*/")}
    without = {mark.stem for mark in RUNTIME.glob("*.owner") if mark.read_text() == str(clusters_dir() / mark.stem)}
    return [Cluster(name) for name in sorted(with_state | without)]


@contextmanager
def held(cluster: Cluster) -> Iterator[None]:
    """Keep every other `up` and `down` of this name away, also that of a user with another state folder.

    Raises:
        ClusterError: the name belongs to a cluster whose state lies elsewhere.
    """
    mark = RUNTIME / f"{cluster.name}.owner"
    with locked(mark):
        owner = mark.read_text()
        if owner and owner != str(cluster.state) and Path(owner).is_dir():
            raise ClusterError(
                f"a cluster {cluster.name!r} runs with its state in {owner}", "remove that one, or take another name"
            )
        mark.write_text(str(cluster.state))
        yield
        if not cluster.state.exists():
            mark.unlink()
