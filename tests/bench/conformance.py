"""Our conformance kit (tests/oip) against other servers: it proves itself where they hold, and shows where not."""

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import serving_models
from figures import Table
from peer_servers import OURS, PEERS, Server
from serving import bodies

_ROOT: Final = Path(__file__).resolve().parents[2]
_ASKED: Final = ("MLServer", "KServe")  # who says that it speaks the protocol
_MOST_SHOWN: Final = 12


def measure() -> Table:
    """Run the kit against each server, with one model."""
    rows: list[tuple[str, ...]] = []
    with tempfile.TemporaryDirectory() as place:
        folder = serving_models.write("small", Path(place) / "model")
        body = bodies("small", Path(place))["json"].file.read_bytes()
        for kind in (OURS, *(kind for kind in PEERS if kind.shown in _ASKED)):
            server = Server(kind, folder, Path(place) / "log")
            try:
                server.wait_for(body)
                rows.append((kind.shown, *_run(server)))
            finally:
                server.stop()
            print(" | ".join(rows[-1]), flush=True)
    how = (
        "`pytest tests/oip` against a server with a small MLP, REST and gRPC. Skipped is what a server does not say it "
        "has. What failed is named by its test."
    )
    return Table(how, ("server", "passed", "failed", "skipped", "what failed"), tuple(rows))


def _run(server: Server) -> Iterator[str]:
    environ = {
        **os.environ,
        "OIP_URL": f"http://127.0.0.1:{server.port}",
        "OIP_GRPC": f"127.0.0.1:{server.port + (server.kind.grpc_port or 0)}",
        "OIP_MODEL": "model",
    }
    command = [sys.executable, "-m", "pytest", "-q", "--tb=no", "-rf", "-p", "no:cacheprovider", "tests/oip"]
    done = subprocess.run(command, cwd=_ROOT, env=environ, capture_output=True, text=True)
    for word in ("passed", "failed", "skipped"):
        found = re.search(rf"(\d+) {word}", done.stdout)
        yield found[1] if found else "0"
    names = sorted(set(re.findall(r"^FAILED \S+?::(\w+)", done.stdout, re.M)))
    shown = [name.removeprefix("test_").replace("_", " ") for name in names[:_MOST_SHOWN]]
    yield "; ".join([*shown, *([f"and {len(names) - _MOST_SHOWN} more"] if len(names) > _MOST_SHOWN else [])])
