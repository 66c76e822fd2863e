"""The store that the options of a command describe."""

import argparse
import os
from pathlib import Path

from trimtab_optimizer.store import Store, open_store


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that say where images are."""
    directory = os.environ.get("TRIMTAB_REGISTRY_DIR")
    parser.add_argument(
        "--registry-dir",
        type=Path,
        default=Path(directory) if directory else None,
        help="a directory that plays the registry (default: TRIMTAB_REGISTRY_DIR)",
    )
    parser.add_argument("--local", action="store_true", help="the directory that `trimtab run` reads, not a registry")
    parser.add_argument("--insecure", action="append", default=[], help="a host:port reached over plain HTTP")
    parser.add_argument("--docker-config", action="append", type=Path, default=[], help="a folder with a config.json")


def store_of(arguments: argparse.Namespace) -> Store:
    """Return the store of registries, or of one directory."""
    directory = default_registry_dir() if arguments.local else arguments.registry_dir
    return open_store(tuple(arguments.insecure), tuple(arguments.docker_config), directory)


def default_registry_dir() -> Path:
    """Return the directory that plays the registry on a laptop."""
    data = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local/share"
    return Path(os.environ.get("TRIMTAB_REGISTRY_DIR") or Path(data) / "trimtab/registry")
