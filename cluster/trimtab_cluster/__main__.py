"""The command line: python3 -m trimtab_cluster COMMAND."""

import argparse
import shlex
import sys
from collections.abc import Sequence

from trimtab_cluster import binaries, checks, images, lifecycle, packages, processes, state
from trimtab_cluster.api import Api
from trimtab_cluster.components import COMPONENTS
from trimtab_cluster.errors import ClusterError
from trimtab_cluster.places import Cluster
from trimtab_cluster.registry import PORT
from trimtab_cluster.state import Shape


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    chosen = _parser().parse_args(arguments)
    try:
        return int(chosen.run(chosen) or 0)
    except ClusterError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def _up(chosen: argparse.Namespace) -> None:
    node = not chosen.apiserver_only
    lifecycle.up(Cluster(chosen.name), Shape(node=node, controllers=node or chosen.controllers, audit=chosen.audit))
    _env(chosen)


def _down(chosen: argparse.Namespace) -> None:
    for cluster in state.all_clusters() if chosen.all else [Cluster(chosen.name)]:
        lifecycle.down(cluster)


def _status(chosen: argparse.Namespace) -> int:
    cluster = Cluster(chosen.name)
    record = state.require(cluster)
    ready = Api(cluster.etc, record.node).is_ready()
    print(f"API server: https://{record.node}:6443 {'ready' if ready else 'NOT READY'}")
    running = {name: processes.recorded(cluster, name) for name in processes.components(cluster)}
    for name, pid in running.items():
        print(f"{name}: {f'pid {pid}' if pid else f'ENDED, see {cluster.log}/{name}.log'}")
    return 0 if ready and all(running.values()) else 1


def _kubeconfig(chosen: argparse.Namespace) -> None:
    cluster = Cluster(chosen.name)
    state.require(cluster)
    print(cluster.kubeconfig)


def _env(chosen: argparse.Namespace) -> None:
    """Print what a shell evaluates: eval "$(python3 -m trimtab_cluster env)"."""
    cluster = Cluster(chosen.name)
    record = state.require(cluster)
    values = {"KUBECONFIG": str(cluster.kubeconfig), "TRIMTAB_NODE": record.node, "TRIMTAB_NETNS": cluster.namespace}
    if record.shape.node:
        values["TRIMTAB_REGISTRY"] = f"{record.node}:{PORT}"
    for name, value in values.items():
        print(f"export {name}={shlex.quote(value)}")
    print(f'export PATH={shlex.quote(str(cluster.bin))}:"$PATH"')


def _build(chosen: argparse.Namespace) -> None:
    names = chosen.component or [component.name for component in COMPONENTS]
    for program, path in binaries.ready(names).items():
        print(f"{program} {path}")


def _images(chosen: argparse.Namespace) -> None:
    if chosen.registry:
        registry = images.Registry(chosen.registry, chosen.known_as or chosen.registry, chosen.insecure)
    else:
        registry = images.registry_of(Cluster(chosen.name))
    for name, reference in images.deliver(registry, chosen.base).items():
        print(f"{name} {reference}")


def _doctor(_: argparse.Namespace) -> int:
    lacking = checks.failing(Shape(node=True, controllers=True, audit=False))
    for check in checks.CHECKS:
        print(f"lacking: {check.what}\n  mend: {check.mend}" if check in lacking else f"ok: {check.what}")
    if names := packages.missing(packages.FOR_IMAGES):
        print(f"`up` and `images` will install: {' '.join(names)}")
    return 1 if lacking else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="trimtab_cluster", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    named = argparse.ArgumentParser(add_help=False)
    named.add_argument("--name", default="demo", help="which cluster (default: %(default)s)")

    up = commands.add_parser("up", parents=[named], help="bring a cluster up and print its environment")
    up.add_argument("--apiserver-only", action="store_true", help="only etcd and API server, in a few seconds")
    up.add_argument("--controllers", action="store_true", help="with --apiserver-only: controllers as well")
    up.add_argument("--audit", action="store_true", help="log every request, without bodies, to log/audit.log")
    up.set_defaults(run=_up)
    down = commands.add_parser("down", parents=[named], help="remove a cluster and everything of it")
    down.add_argument("--all", action="store_true", help="remove all clusters")
    down.set_defaults(run=_down)
    for name, run, text in (
        ("status", _status, "show the components"),
        ("kubeconfig", _kubeconfig, "print the path of the administrator's kubeconfig"),
        ("env", _env, "print the environment for a shell to evaluate"),
    ):
        commands.add_parser(name, parents=[named], help=text).set_defaults(run=run)
    build_images = commands.add_parser("images", parents=[named], help="build the images, put them into the registry")
    build_images.add_argument("--base", help="a Python base image to start from (default: made here with mmdebstrap)")
    build_images.add_argument("--registry", help="host[:port][/path] of another registry (default: the cluster's)")
    build_images.add_argument("--known-as", help="how the cluster names it (default: the same)")
    build_images.add_argument("--insecure", action="store_true", help="reach it over plain HTTP")
    build_images.set_defaults(run=_images)
    build = commands.add_parser("build", help="get the binaries and print where they are")
    build.add_argument("component", nargs="*", help="only these (default: all)")
    build.set_defaults(run=_build)
    commands.add_parser("doctor", help="say what this machine lacks").set_defaults(run=_doctor)
    return parser


if __name__ == "__main__":
    sys.exit(main())
