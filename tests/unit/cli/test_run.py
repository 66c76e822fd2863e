"""`trimtab run` as a person uses it: real processes, a real model, edits of the file."""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[3]
EXAMPLE = ROOT / "examples/digits"
PACKAGES = {"model": "models/digits:v1", "data-train": "data/digits-train:v1", "data-test": "data/digits-test:v1"}
LIMIT_SECONDS = 120


@dataclass
class Laptop:
    """A running `trimtab run`, with the file it follows and what it prints."""

    file: Path
    output: Path
    url: str

    def apply(self, name: str) -> None:
        """Write another version over the file, as an editor would."""
        self.file.write_text((EXAMPLE / name).read_text())

    def says(self, text: str, times: int = 1) -> None:
        """Wait until a text was printed that many times."""
        deadline = time.monotonic() + LIMIT_SECONDS
        while self.output.read_text().count(text) < times:
            assert time.monotonic() < deadline, self.output.read_text()
            time.sleep(0.1)

    def ask(self) -> dict[str, Any]:
        body = json.dumps({"instances": [[0.5] * 64]}).encode()
        with urllib.request.urlopen(urllib.request.Request(self.url, body), timeout=10) as answer:
            found: dict[str, Any] = json.load(answer)
        return found


@pytest.fixture
def laptop(tmp_path: Path) -> Iterator[Laptop]:
    subprocess.run([sys.executable, EXAMPLE / "train.py", "--out", tmp_path / "build"], check=True)
    environment = {**os.environ, "TRIMTAB_REGISTRY_DIR": str(tmp_path / "registry")}
    trimtab = [sys.executable, "-m", "trimtab_cli"]
    for folder, place in PACKAGES.items():
        uri = f"oci://registry.local:5000/{place}"
        subprocess.run([*trimtab, "push", "--local", tmp_path / "build" / folder, uri], check=True, env=environment)
    file, output, port = tmp_path / "edited" / "digits.yaml", tmp_path / "output", free_port()
    file.parent.mkdir()
    laptop = Laptop(file, output, f"http://127.0.0.1:{port}/predict")
    laptop.apply("v1.yaml")
    ports = ["--port", str(port), "--grpc-port", str(free_port())]
    with output.open("w") as out:
        process = subprocess.Popen([*trimtab, "run", file, *ports], stdout=out, stderr=out, env=environment)
    yield laptop
    process.terminate()
    assert process.wait(60) == 0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_an_edit_that_fails_its_gate_changes_nothing_and_an_edit_back_is_healthy_at_once(laptop: Laptop) -> None:
    laptop.says("Healthy: the stable revision serves")
    before = laptop.ask()
    assert before["predictions"][0]["label"] in list("0123456789")

    laptop.apply("v3-bad.yaml")
    laptop.says("is held back: accuracy is")
    assert laptop.ask() == before

    laptop.apply("v1.yaml")
    laptop.says("Healthy: the stable revision serves", times=2)
    assert laptop.ask() == before


def test_a_file_that_is_no_model_deployment_is_told_and_left(laptop: Laptop) -> None:
    laptop.says("Healthy: the stable revision serves")
    laptop.file.write_text("kind: Pod\n")
    laptop.says("not applied: ")
    assert laptop.ask()["predictions"]
