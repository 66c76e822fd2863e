"""Pods as processes: the optimizer for a Job, one server for each pod of a Deployment."""

import asyncio
import os
import socket
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

Manifest = dict[str, Any]

_STOP_SECONDS = 20


def container_environment(template: Manifest) -> dict[str, str]:
    """Return the environment that a pod template gives its container."""
    return {item["name"]: item["value"] for item in template["spec"]["containers"][0]["env"]}


def free_port() -> int:
    """Return a port of the loopback address that nobody has now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def start(module: str, environment: Mapping[str, str], log: Path) -> asyncio.subprocess.Process:
    """Start a program of ours with its output in a file."""
    with log.open("ab") as out:
        command = [sys.executable, "-m", module]
        return await asyncio.create_subprocess_exec(
            *command, env={**os.environ, **environment}, stdin=asyncio.subprocess.DEVNULL, stdout=out, stderr=out
        )


@dataclass(eq=False)
class Server:
    """One serving process with its two ports."""

    process: asyncio.subprocess.Process
    rest_port: int
    grpc_port: int
    ready: bool = field(default=False)

    @property
    def alive(self) -> bool:
        return self.process.returncode is None

    async def look(self, http: httpx.AsyncClient) -> None:
        """Ask whether it is ready."""
        try:
            answer = await http.get(f"http://127.0.0.1:{self.rest_port}/v2/health/ready", timeout=2)
            self.ready = answer.status_code == httpx.codes.OK
        except httpx.HTTPError:
            self.ready = False

    async def stop(self) -> None:
        """Let it drain, and end it if it does not end by itself."""
        self.ready = False
        if not self.alive:
            return
        self.process.terminate()
        try:
            await asyncio.wait_for(self.process.wait(), _STOP_SECONDS)
        except TimeoutError:
            self.process.kill()
            await self.process.wait()
