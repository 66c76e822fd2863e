"""The demo: `make demo` calls `python demo`, `make demo-down` calls `python demo --down`.

It runs on a cluster of the project's own, which it starts; on yours, if TRIMTAB_CONTEXT names it; and where neither can
be had, it says what this machine lacks and walks the same road with `trimtab run`.
"""

import argparse
import os
import sys
import tempfile
from pathlib import Path

import laptop
from install import install, uninstall
from road import Road, RoadBlocked
from target import CommandFailed, Target, named_target, own_target
from trimtab_cluster import binaries, checks, lifecycle
from trimtab_cluster.errors import ClusterError
from trimtab_cluster.places import Cluster
from trimtab_cluster.state import Shape

_NODE = Shape(node=True, controllers=True, audit=False)


def main() -> None:
    """Run the demo, or remove it; what a person can mend is said in words."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--name", default="demo", help="the cluster of our own (default: %(default)s)")
    parser.add_argument("--namespace", default="trimtab-demo")
    parser.add_argument("--down", action="store_true", help="remove what the demo left up")
    chosen = parser.parse_args()
    try:
        (remove if chosen.down else show)(Cluster(chosen.name), chosen.namespace)
    except (ClusterError, CommandFailed, RoadBlocked) as error:
        sys.exit(f"error: {error}")


def show(cluster: Cluster, namespace: str) -> None:
    """Walk the road on the best that there is."""
    target = named_target(os.environ)
    if target is None:
        if lacking := checks.failing(_NODE):
            show_on_laptop(lacking)
            return
        target = start(cluster)
    install(target, namespace)
    Road(target, namespace).walk()
    print(f"The demo stays up: {' '.join(target.kubectl_command())} -n {namespace} get mdeploy,mrev,pods")
    print("`make demo-down` removes it.")


def start(cluster: Cluster) -> Target:
    """Bring a cluster of our own up."""
    binaries.ready(["helm"])
    lifecycle.up(cluster, _NODE)
    return own_target(cluster)


def show_on_laptop(lacking: list[checks.Check]) -> None:
    """Say what keeps a node from running here, and walk the road without one."""
    print("A Kubernetes node cannot run on this machine, which lacks:")
    for check in lacking:
        print(f"  {check.what}\n    mend: {check.mend}")
    print("Here is the same road with `trimtab run`, by the operator's own rules:", flush=True)
    with tempfile.TemporaryDirectory(prefix="trimtab-demo-") as folder:
        laptop.walk(Path(folder))


def remove(cluster: Cluster, namespace: str) -> None:
    """Remove what the demo made: our own cluster, or our namespace in yours."""
    target = named_target(os.environ)
    if target is not None:
        uninstall(target, namespace)
    elif os.geteuid() == 0:
        lifecycle.down(cluster)
    else:
        print("nothing to remove: without root there was no cluster")
