"""run: the same plan, passes, gate, server and rollout rules from the same YAML on a laptop."""

import argparse
import asyncio
import contextlib
import signal
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import watchfiles
import yaml

from trimtab_api.contract import Contract
from trimtab_api.errors import InvalidSpec
from trimtab_api.spec import ModelDeploymentSpec
from trimtab_cli.commands.render import read_parent
from trimtab_cli.local.world import LocalWorld
from trimtab_cli.stores import default_registry_dir
from trimtab_operator.core.observed import Manifest


def add_parsers(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command."""
    run = commands.add_parser("run", help="run a ModelDeployment here, without a cluster, and follow edits of its file")
    run.add_argument("file", type=Path)
    run.add_argument("--port", type=int, default=8080, help="REST (default: 8080)")
    run.add_argument("--grpc-port", type=int, default=9000, help="gRPC (default: 9000)")
    run.add_argument(
        "--registry-dir", type=Path, default=default_registry_dir(), help="where `trimtab push` put things"
    )
    run.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    read_manifest(arguments.file)
    with tempfile.TemporaryDirectory(prefix="trimtab-") as work_dir:
        asyncio.run(_serve(arguments, Path(work_dir)))
    return 0


async def _serve(arguments: argparse.Namespace, work_dir: Path) -> None:
    started = time.monotonic()

    def say(text: str) -> None:
        print(f"[{time.monotonic() - started:6.1f}s] {text}", flush=True)

    async with httpx.AsyncClient() as http:
        world = LocalWorld(arguments.registry_dir.resolve(), work_dir, http, say)
        await world.apply(read_manifest(arguments.file))
        say(f"http://127.0.0.1:{arguments.port}/predict and gRPC on {arguments.grpc_port}; Ctrl-C ends it")
        serving = asyncio.create_task(world.serve(arguments.port, arguments.grpc_port))
        following = asyncio.create_task(_follow(arguments.file, world, say))
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, serving.cancel)
        with contextlib.suppress(asyncio.CancelledError):
            await serving
        following.cancel()


async def _follow(file: Path, world: LocalWorld, say: Callable[[str], None]) -> None:
    """Apply the file whenever it changes. One that is wrong is told and left: what serves goes on."""
    async for _ in watchfiles.awatch(file.parent, recursive=False):
        try:
            await world.apply(read_manifest(file))
        except (InvalidSpec, OSError, yaml.YAMLError) as error:
            say(f"not applied: {error}")


def read_manifest(file: Path) -> Manifest:
    """Read and check a ModelDeployment. Raises InvalidSpec."""
    parent = read_parent(file)
    spec: Contract = ModelDeploymentSpec.parse(parent.spec)
    manifest: Manifest = yaml.safe_load(file.read_text())
    return {**manifest, "spec": spec.to_dict()}
