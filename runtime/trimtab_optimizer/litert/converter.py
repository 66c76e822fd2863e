"""The process that makes a SavedModel and a LiteRT file of an ONNX graph. Run by file: it imports nothing of ours.

python converter.py FOLDER. In FOLDER are graph.onnx, request.json and rows.npz; saved_model/ and model.tflite are put
beside them. A process of its own, since TensorFlow numbers what it makes by what it made before (the same graph is the
same bytes only the first time), brings a gigabyte of code along, and must not share one process with torch.
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
import onnx2tf
import tensorflow as tf
from numpy.typing import NDArray

SIGNATURE: Final = "serving_default"
_RANKS_WITH_CHANNELS: Final = (3, 4, 5)

Arrays = dict[str, NDArray[Any]]


def main(folder: Path) -> None:
    """Convert what lies in a folder."""
    request = json.loads((folder / "request.json").read_text())
    graph = onnx.load(folder / "graph.onnx")
    with np.load(folder / "rows.npz", allow_pickle=False) as archive:
        rows = {name: archive[name] for name in archive.files}
    model = _convert(graph, folder)
    module = tf.Module()
    module.kept = list(model.variables)  # not the model: it would save a function with the weights for each layer
    module.serve = _signature(model, graph.graph, request, rows)
    _save(module, folder / "saved_model")
    (folder / "model.tflite").write_bytes(_to_litert(folder / "saved_model"))


def _convert(graph: onnx.ModelProto, folder: Path) -> Any:
    """Return the graph as a Keras model, inputs in the layout that they have in ONNX."""
    onnx2tf.onnx2tf.download_test_image_data = _no_network
    with_channels = [
        value.name for value in graph.graph.input if len(value.type.tensor_type.shape.dim) in _RANKS_WITH_CHANNELS
    ]
    return onnx2tf.convert(
        onnx_graph=graph,
        output_folder_path=str(folder / "unused"),
        keep_ncw_or_nchw_or_ncdhw_input_names=with_channels or None,
        not_use_onnxsim=True,
        disable_model_save=True,
        verbosity="error",
    )


def _signature(model: Any, graph: onnx.GraphProto, request: dict[str, Any], rows: Arrays) -> Any:
    """Return the model as a function with the names and the order of model.yaml, and with the outputs' own layouts."""
    places = {value.name: place for place, value in enumerate(graph.input)}
    order = [places[name] for name in request["inputs"]]
    outputs = {value.name: place for place, value in enumerate(graph.output)}
    run = _runner(model, order)
    found = run(*(tf.constant(rows[f"input {name}"]) for name in request["inputs"]))
    layouts = {name: _layout(np.asarray(found[outputs[name]]), rows[f"output {name}"]) for name in request["outputs"]}

    def serve(*inputs: Any) -> dict[str, Any]:
        answers = run(*inputs)
        return {
            request["signature"][name]: tf.identity(
                answers[outputs[name]] if layout is None else tf.transpose(answers[outputs[name]], layout)
            )
            for name, layout in layouts.items()
        }

    specs = [
        tf.TensorSpec(model.inputs[place].shape, model.inputs[place].dtype, request["signature"][name])
        for name, place in zip(request["inputs"], order, strict=True)
    ]
    return tf.function(serve, input_signature=specs, autograph=False)


def _runner(model: Any, order: list[int]) -> Callable[..., list[Any]]:
    """Return a function of the inputs in another order that gives a list, also of one output."""

    def run(*inputs: Any) -> list[Any]:
        given = dict(zip(order, inputs, strict=True))
        answers = model([given[place] for place in range(len(given))])
        return list(answers) if isinstance(answers, list | tuple) else [answers]

    return run


def _layout(found: NDArray[Any], expected: NDArray[Any]) -> tuple[int, ...] | None:
    """Return how axes have to move so that an output is that of ONNX: TensorFlow keeps channels last."""
    rank = found.ndim
    if rank not in _RANKS_WITH_CHANNELS or expected.ndim != rank:
        return None
    channels_first = (0, rank - 1, *range(1, rank - 1))
    moved = found.transpose(channels_first)
    return channels_first if _distance(moved, expected) < _distance(found, expected) else None


def _distance(found: NDArray[Any], expected: NDArray[Any]) -> float:
    if found.shape != expected.shape:
        return float("inf")
    return float(np.abs(found.astype(np.float64) - expected.astype(np.float64)).max(initial=0.0))


def _save(module: Any, folder: Path) -> None:
    serve = module.serve.get_concrete_function()
    tf.saved_model.save(module, str(folder), signatures={SIGNATURE: serve})
    # The one file that differs from run to run: it holds a random number, and nothing needs it.
    (folder / "fingerprint.pb").unlink(missing_ok=True)
    if (folder / "assets").is_dir():
        (folder / "assets").rmdir()  # empty, and an artifact holds files


def _to_litert(folder: Path) -> bytes:
    converter = tf.lite.TFLiteConverter.from_saved_model(str(folder), signature_keys=[SIGNATURE])
    content: bytes = converter.convert()
    return content


def _no_network(*_: object) -> NDArray[Any]:
    raise RuntimeError("onnx2tf wants pictures from the network to test with, and a Job has none")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
