"""The same road without a cluster: `trimtab run` follows a file, which is edited here as a person would."""

import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Any

from install import EXAMPLES, NAME_IN_EXAMPLES, packages_of, trained
from road import RoadBlocked

_TRIMTAB = [sys.executable, "-m", "trimtab_cli"]
_LIMIT_SECONDS = 180


class Laptop:
    """A running `trimtab run` in a folder of its own, read line by line; the block's end ends it."""

    def __init__(self, folder: Path, show: bool = False) -> None:
        self.file = folder / "edited" / "digits.yaml"
        self._output = folder / "output"
        self._environment = {**os.environ, "TRIMTAB_REGISTRY_DIR": str(folder / "registry")}
        self._ports = _free_ports(2)
        self._show = show
        self._read = 0
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> "Laptop":
        self._push_example()
        self.file.parent.mkdir(parents=True)
        self.apply("v1.yaml")
        rest, grpc = self._ports
        command = [*_TRIMTAB, "run", str(self.file), "--port", str(rest), "--grpc-port", str(grpc)]
        with self._output.open("wb") as out:
            self._process = subprocess.Popen(command, stdout=out, stderr=out, env=self._environment)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process is not None
        self._process.terminate()
        code = self._process.wait(60)
        if code and not error:
            raise RoadBlocked(f"trimtab run ended with {code}: {self._output.read_text()[-1000:]}")

    def apply(self, name: str) -> None:
        """Write a version of the example over the file, as an editor would."""
        shutil.copyfile(EXAMPLES / "digits" / name, self.file)

    def says(self, text: str) -> None:
        """Read on to the next line with a text. Raises RoadBlocked where none comes."""
        deadline = time.monotonic() + _LIMIT_SECONDS
        while text not in self._next_line():
            if time.monotonic() > deadline:
                raise RoadBlocked(f"trimtab run does not say {text!r}:\n{self._output.read_text()[-2000:]}")

    def ask(self) -> dict[str, Any]:
        """Return the answer to one image."""
        body = json.dumps({"instances": [[0.5] * 64]}).encode()
        url = f"http://127.0.0.1:{self._ports[0]}/predict"
        with urllib.request.urlopen(urllib.request.Request(url, body), timeout=10) as answer:
            found: dict[str, Any] = json.load(answer)
        return found

    def _push_example(self) -> None:
        build = trained("digits")
        for folder, place in packages_of("digits").items():
            push = [*_TRIMTAB, "push", "--local", str(build / folder), f"oci://{NAME_IN_EXAMPLES}/{place}"]
            subprocess.run(push, check=True, env=self._environment, stdout=subprocess.DEVNULL)

    def _next_line(self) -> str:
        """Return the next line, or nothing after waiting for one a moment."""
        line, end, _ = self._output.read_text()[self._read :].partition("\n")
        if not end:
            time.sleep(0.1)
            return ""
        self._read += len(line) + 1
        if self._show:
            print(f"    {line}", flush=True)
        return line


def walk(folder: Path) -> None:
    """Walk the road of the demo on this machine. Raises RoadBlocked."""
    print("version 1: the model as ONNX, held against an accuracy of 0.95", flush=True)
    with Laptop(folder, show=True) as laptop:
        laptop.says("Healthy")
        print(f"a prediction: {json.dumps(laptop.ask())[:160]}")
        print("version 2: int8; a canary with an analysis takes it in", flush=True)
        asking = threading.Event()
        thread = threading.Thread(target=_ask_on, args=(laptop, asking))
        thread.start()
        try:
            laptop.apply("v2.yaml")
            laptop.says("step 4/4")
            laptop.says("Healthy")
        finally:
            asking.set()
            thread.join()
        print("version 3: a gate that cannot be met", flush=True)
        laptop.apply("v3-bad.yaml")
        laptop.says("is held back")
        print("back to version 1 by an edit of the file", flush=True)
        edited = time.monotonic()
        laptop.apply("v1.yaml")
        laptop.says("Healthy")
        print(f"version 1 serves again {time.monotonic() - edited:.1f} s after the edit")


def _ask_on(laptop: Laptop, stop: threading.Event) -> None:
    while not stop.wait(0.05):
        laptop.ask()


def _free_ports(count: int) -> list[int]:
    probes = [socket.socket() for _ in range(count)]
    for probe in probes:
        probe.bind(("127.0.0.1", 0))
    ports = [int(probe.getsockname()[1]) for probe in probes]
    for probe in probes:
        probe.close()
    return ports
