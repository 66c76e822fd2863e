"""Tiny ONNX models, and the server as a process of its own: what a caller would meet, on loopback."""

import json
import os
import queue
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import yaml
from onnx import TensorProto, helper, numpy_helper

_SECONDS = 30.0
_ELEMENTS = {
    "BOOL": TensorProto.BOOL,
    "UINT8": TensorProto.UINT8,
    "UINT16": TensorProto.UINT16,
    "UINT32": TensorProto.UINT32,
    "UINT64": TensorProto.UINT64,
    "INT8": TensorProto.INT8,
    "INT16": TensorProto.INT16,
    "INT32": TensorProto.INT32,
    "INT64": TensorProto.INT64,
    "FP16": TensorProto.FLOAT16,
    "FP32": TensorProto.FLOAT,
    "FP64": TensorProto.DOUBLE,
    "BYTES": TensorProto.STRING,
}

Tensors = Mapping[str, tuple[str, Sequence[int]]]


@dataclass(frozen=True)
class Models:
    """Writes model packages under a folder. Tensors are {name: (datatype, shape)}, -1 for any length."""

    root: Path

    def write(
        self,
        name: str,
        nodes: Sequence[onnx.NodeProto],
        inputs: Tensors,
        outputs: Tensors,
        constants: Mapping[str, Any] | None = None,
        manifest: Mapping[str, Any] | None = None,
    ) -> Path:
        """Write a package; `manifest` overrides what model.yaml says of the model."""
        folder = self.root / name
        folder.mkdir(parents=True, exist_ok=True)
        weights = [numpy_helper.from_array(array, key) for key, array in (constants or {}).items()]
        graph = helper.make_graph(nodes, name, _values(inputs), _values(outputs), weights)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        (folder / "model.onnx").write_bytes(model.SerializeToString())
        content = {"name": name, "format": "onnx", "inputs": _described(inputs), "outputs": _described(outputs)}
        (folder / "model.yaml").write_text(yaml.safe_dump(content | dict(manifest or {})))
        return folder

    def scores(self, name: str = "scores", **manifest: Any) -> Path:
        """y = x W: three numbers in, two scores out, with labels."""
        node = helper.make_node("MatMul", ["x", "w"], ["y"])
        weights = {"w": np.arange(6, dtype=np.float32).reshape(3, 2)}
        manifest = {"labels": ["cat", "dog"]} | manifest
        return self.write(name, [node], {"x": ("FP32", (-1, 3))}, {"y": ("FP32", (-1, 2))}, weights, manifest)

    def collection(self, name: str, models: Mapping[tuple[str, str | None], Path]) -> Path:
        """Packages in one, by name and version."""
        folder = self.root / name
        listed = []
        for number, ((model, version), package) in enumerate(models.items()):
            shutil.copytree(package, folder / f"models/{number}")
            of_version = {} if version is None else {"version": version}
            listed.append({"name": model, "folder": f"models/{number}", **of_version})
        content = {"name": name, "format": "collection", "models": listed}
        (folder / "model.yaml").write_text(yaml.safe_dump(content))
        return folder

    def echo(self, datatype: str) -> Path:
        """The input as it is, of any length."""
        node = helper.make_node("Identity", ["x"], ["y"])
        shape = (datatype, (-1, -1))
        return self.write(f"echo-{datatype.lower()}", [node], {"x": shape}, {"y": shape})

    def two_inputs(self) -> Path:
        """total = a + b, difference = a - b."""
        nodes = [helper.make_node("Add", ["a", "b"], ["total"]), helper.make_node("Sub", ["a", "b"], ["difference"])]
        shape = ("INT64", (-1, 2))
        return self.write("sums", nodes, {"a": shape, "b": shape}, {"total": shape, "difference": shape})

    def fragile(self) -> Path:
        """Looks rows up by number: it fails on a number that is not 0 to 3."""
        node = helper.make_node("Gather", ["table", "index"], ["row"], axis=0)
        table = {"table": np.arange(8, dtype=np.float32).reshape(4, 2)}
        return self.write("fragile", [node], {"index": ("INT64", (-1,))}, {"row": ("FP32", (-1, 2))}, table)

    def slow(self) -> Path:
        """The input as it is, after work of about a millisecond a row."""
        names = ["x", *(f"h{at}" for at in range(30)), "y"]
        nodes = [helper.make_node("MatMul", [left, "w"], [right]) for left, right in pairwise(names)]
        shape = ("FP32", (-1, 1024))
        return self.write("slow", nodes, {"x": shape}, {"y": shape}, {"w": np.eye(1024, dtype=np.float32)})


def _values(tensors: Tensors) -> list[onnx.ValueInfoProto]:
    return [
        helper.make_tensor_value_info(
            name, _ELEMENTS[datatype], [f"{name}{at}" if axis == -1 else axis for at, axis in enumerate(shape)]
        )
        for name, (datatype, shape) in tensors.items()
    ]


def _described(tensors: Tensors) -> list[dict[str, Any]]:
    return [{"name": name, "datatype": datatype, "shape": list(shape)} for name, (datatype, shape) in tensors.items()]


class Serving:
    """A server process. Its events are lines on standard error; nothing is polled."""

    def __init__(self, folder: Path, environ: Mapping[str, str]) -> None:
        settings = {"MODEL_DIR": str(folder), "HOST": "127.0.0.1", "REST_PORT": "0", "GRPC_PORT": "0", "THREADS": "1"}
        settings |= {"DRAIN_SECONDS": "0.5"} | dict(environ)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "trimtab_runtime"],
            env=_environment(folder) | {f"TRIMTAB_{name}": value for name, value in settings.items()},
            stderr=subprocess.PIPE,
            text=True,
        )
        self.events: list[dict[str, Any]] = []
        self._lines: queue.Queue[dict[str, Any] | None] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def wait_for(self, message: str) -> dict[str, Any]:
        """Return the next event with this message; fails if the process ends without it."""
        while (event := self._lines.get(timeout=_SECONDS)) is not None:
            self.events.append(event)
            if event.get("message") == message:
                return event
        raise AssertionError(f"the server ended without {message!r}: {self.events}")

    def started(self) -> "Serving":
        event = self.wait_for("serving")
        self.url = f"http://127.0.0.1:{event['rest']}"
        self.grpc = f"127.0.0.1:{event['grpc']}"
        return self

    def terminate(self) -> None:
        self.process.send_signal(signal.SIGTERM)

    def exit_code(self) -> int:
        code = self.process.wait(_SECONDS)
        self._reader.join(_SECONDS)
        while (event := self._lines.get(timeout=_SECONDS)) is not None:
            self.events.append(event)
        return code

    def stop(self) -> None:
        self.process.kill()
        self.process.wait(_SECONDS)
        self._reader.join(_SECONDS)

    def _read(self) -> None:
        assert self.process.stderr is not None
        with self.process.stderr as lines:
            for line in lines:
                try:
                    self._lines.put(json.loads(line))
                except json.JSONDecodeError:
                    self._lines.put({"message": line.rstrip()})
        self._lines.put(None)


Serve = Callable[..., Serving]


def start(stack: ExitStack, folder: Path, environ: Mapping[str, str], ready: bool = True) -> Serving:
    """Start a server that ends with the stack; not `ready` where it is not expected to serve."""
    serving = Serving(folder, environ)
    stack.callback(serving.stop)
    return serving.started() if ready else serving


def _environment(home: Path) -> dict[str, str]:
    """Return our environment without what keeps onnxruntime from reporting home: that is the server's own task."""
    quiet = ("CI", "ORT_DISABLE_TELEMETRY", "ORT_RUNNING_UNIT_TESTS", "XDG_CACHE_HOME")
    return {name: value for name, value in os.environ.items() if name not in quiet} | {"HOME": str(home)}
