"""push, pull, inspect: model packages and data sets as OCI images."""

import argparse
import json
from pathlib import Path

from trimtab_cli.stores import add_options, store_of
from trimtab_optimizer.store import Reference, repository_uri


def add_parsers(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the three commands."""
    push = commands.add_parser("push", help="push a folder (a model package, or data) as an image")
    push.add_argument("folder", type=Path)
    push.add_argument("uri", help="oci://host[:port]/repository:tag")
    push.set_defaults(run=_push)
    pull = commands.add_parser("pull", help="unpack an image into a folder")
    pull.add_argument("uri")
    pull.add_argument("folder", type=Path)
    pull.set_defaults(run=_pull)
    inspect = commands.add_parser("inspect", help="show digest and annotations of an image")
    inspect.add_argument("uri")
    inspect.set_defaults(run=_inspect)
    for parser in (push, pull, inspect):
        add_options(parser)


def _push(arguments: argparse.Namespace) -> int:
    reference = Reference.parse(arguments.uri)
    repository = f"{reference.host}/{reference.repository}"
    digest = store_of(arguments).push(arguments.folder, repository, (reference.tag,), {})
    print(repository_uri(repository, digest=digest))
    return 0


def _pull(arguments: argparse.Namespace) -> int:
    print(store_of(arguments).pull(arguments.uri, arguments.folder))
    return 0


def _inspect(arguments: argparse.Namespace) -> int:
    reference = Reference.parse(arguments.uri)
    name = reference.tag or reference.digest or "latest"
    found = store_of(arguments).find(f"{reference.host}/{reference.repository}", name)
    if found is None:
        print(f"there is no {arguments.uri}")
        return 1
    digest, annotations = found
    print(json.dumps({"digest": digest, "annotations": annotations}, indent=1))
    return 0
