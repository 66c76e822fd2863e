"""The command: up, down, status, kubeconfig, env, build, images, doctor."""

import argparse
import sys

from trimtab_cluster import checks, images, node, packages
from trimtab_cluster.binaries import ensure_binaries
from trimtab_cluster.places import Cluster, clusters_dir


def main() -> None:
    """Carry out one command; the exit code is 1 where the machine lacks something or a component did not come up."""
    arguments = _parse()
    try:
        _COMMANDS[arguments.command](arguments)
    except (node.NotUp, images.BuildFailed) as error:
        sys.exit(str(error))


def _up(arguments: argparse.Namespace) -> None:
    _check(need_node=not arguments.apiserver_only)
    packages.install_missing()
    node.up(Cluster(arguments.name), arguments.apiserver_only, arguments.controllers)


def _down(arguments: argparse.Namespace) -> None:
    folder = clusters_dir()
    everyone = sorted(path.name for path in folder.iterdir() if path.is_dir()) if folder.exists() else []
    for name in everyone if arguments.all else [arguments.name]:
        node.down(Cluster(name))


def _status(arguments: argparse.Namespace) -> None:
    state = "up" if node.is_up(Cluster(arguments.name)) else "down"
    print(f"{arguments.name}: {state}")
    sys.exit(0 if state == "up" else 1)


def _kubeconfig(arguments: argparse.Namespace) -> None:
    print(Cluster(arguments.name).kubeconfig)


def _env(arguments: argparse.Namespace) -> None:
    """Print what a shell needs to work with the cluster: `eval "$(... env)"`."""
    cluster = Cluster(arguments.name)
    print(f"export KUBECONFIG={cluster.kubeconfig}")
    print(f"export TRIMTAB_REGISTRY={node.node_address(cluster)}:5000")
    print(f'export PATH={ensure_binaries()}:"$PATH"')


def _build(_: argparse.Namespace) -> None:
    print(ensure_binaries())


def _images(arguments: argparse.Namespace) -> None:
    _check(need_node=True)
    packages.install_missing()
    for name, reference in images.deliver(Cluster(arguments.name)).items():
        print(f"{name} {reference}")


def _doctor(_: argparse.Namespace) -> None:
    _check(need_node=True)
    print("this machine can run a cluster")


def _check(need_node: bool) -> None:
    lacking = checks.lacking(need_node)
    if lacking:
        sys.exit("this machine cannot run a cluster; it lacks\n" + "\n".join(f"- {item}" for item in lacking))


_COMMANDS = {
    "up": _up,
    "down": _down,
    "status": _status,
    "kubeconfig": _kubeconfig,
    "env": _env,
    "build": _build,
    "images": _images,
    "doctor": _doctor,
}


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="trimtab_cluster", description=__doc__)
    parser.add_argument("command", choices=sorted(_COMMANDS))
    parser.add_argument("--name", default="demo", help="name of the cluster (default: demo)")
    parser.add_argument("--all", action="store_true", help="down: every cluster of this user")
    parser.add_argument("--apiserver-only", action="store_true", help="up: etcd and API server, no node")
    parser.add_argument("--controllers", action="store_true", help="up --apiserver-only: with the controller manager")
    return parser.parse_args()


if __name__ == "__main__":
    main()
