"""Packages, data and a registry with one thing wrong each, made from the digits example."""

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
import yaml
from safetensors.torch import load_file

from install import push, trained
from target import Target

FAULTY_REGISTRY: Final = "faulty-registry"

_SERVER: Final = """
import http.server, json

class Registry(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        locked = "/locked" in self.path
        self.send_response(401 if locked else 200)
        if locked:
            self.send_header("WWW-Authenticate", 'Basic realm="locked"')
        content = json.dumps({} if locked or self.path == "/v2/" else {"schemaVersion": 2, "layers": []}).encode()
        self.send_header("Content-Type", "application/vnd.oci.image.manifest.v1+json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)
    do_HEAD = do_GET

http.server.ThreadingHTTPServer(("", 5000), Registry).serve_forever()
"""

_TABLE: Final = """

class Table(nn.Module):
    def forward(self, logits):
        return logits.unsqueeze(1)


build_digits = build


def build() -> nn.Module:
    return nn.Sequential(*build_digits(), Table())
"""


def start_faulty_registry(target: Target, namespace: str, image: str) -> None:
    """Start a registry that wants credentials for `locked`, and gives for every digest of `liar` other content."""
    labels = {"app": FAULTY_REGISTRY}
    container = {
        "name": "registry",
        "image": image,
        "command": ["/opt/trimtab/venv/bin/python", "-c", _SERVER],
        "readinessProbe": {"tcpSocket": {"port": 5000}, "periodSeconds": 1},
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
    }
    security = {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
    pod = {"containers": [container], "securityContext": security, "automountServiceAccountToken": False}
    for manifest in (
        {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": FAULTY_REGISTRY, "labels": labels}, "spec": pod},
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": FAULTY_REGISTRY},
            "spec": {"selector": labels, "ports": [{"port": 5000}]},
        },
    ):
        target.kubectl("-n", namespace, "apply", "-f", "-", given=json.dumps(manifest))
    target.kubectl("-n", namespace, "wait", "--for=condition=Ready", f"pod/{FAULTY_REGISTRY}", "--timeout=60s")


def push_model(target: Target, folder: Path, name: str, change: Callable[[Path], Any]) -> str:
    """Push the model of the example with a change, and return its URI as the cluster names it."""
    shutil.copytree(trained("digits") / "model", folder)
    change(folder)
    return push(target, folder, f"models/{name}:v1")


def push_data(target: Target, folder: Path, name: str, **arrays: Any) -> str:
    """Push a data set of these arrays, and return its URI."""
    folder.mkdir()
    np.savez(folder / "data.npz", **arrays)
    return push(target, folder, f"data/{name}:v1")


def without_manifest(folder: Path) -> None:
    (folder / "model.yaml").unlink()


def with_code(code: str) -> Callable[[Path], None]:
    """Return a change that puts this code before that of the entry point."""

    def change(folder: Path) -> None:
        file = folder / "digits.py"
        file.write_text(f"{code}\n{file.read_text()}")

    return change


def with_manifest(**fields: Any) -> Callable[[Path], None]:
    """Return a change of fields in model.yaml."""

    def change(folder: Path) -> None:
        file = folder / "model.yaml"
        file.write_text(yaml.safe_dump(yaml.safe_load(file.read_text()) | fields))

    return change


def pickled(folder: Path) -> None:
    """Turn the weights into a pickle."""
    content = io.BytesIO()
    torch.save(load_file(folder / "model.safetensors"), content)
    (folder / "model.safetensors").unlink()
    (folder / "model.pt").write_bytes(content.getvalue())
    with_manifest(weights="model.pt")(folder)


def a_table_a_row(folder: Path) -> None:
    """Let the model answer a table for each row, in which there is no largest class."""
    file = folder / "digits.py"
    file.write_text(file.read_text() + _TABLE)
    with_manifest(outputs=[{"name": "table", "datatype": "FP32", "shape": [-1, 1, 10]}], labels=None)(folder)
