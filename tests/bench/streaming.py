"""Quantizing weights of large ONNX models: ours beside ONNX Runtime's own tools, each in a process of its own.

python tests/bench/streaming.py TOOL SOURCE TARGET     one run, as the benchmark starts it
"""

import shutil
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
from figures import Table, ratios, spread
from processes import Run, peak, run

_WIDTH = 4096  # a layer is a matrix of 4096 x 4096, 67 MB in fp32
_GB = 1e9
_SIZES = {16: 3, 64: 2}  # layers, and rounds of each tool
_LARGEST = 160


def _ours(bits: int) -> Callable[[Path, Path], None]:
    def quantize(source: Path, target: Path) -> None:
        from trimtab_optimizer.streaming.rewrite import rewrite
        from trimtab_optimizer.streaming.schemes import Blockwise, DynamicInt8

        scheme = DynamicInt8() if bits == 8 else Blockwise(bits, 32, False)
        rewrite(source, target, scheme, key="as the Job does, with a journal")

    return quantize


def _ort_int8(source: Path, target: Path) -> None:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    operators = ["MatMul", "Gemm"]
    quantize_dynamic(
        source,
        target,
        op_types_to_quantize=operators,
        per_channel=True,
        weight_type=QuantType.QInt8,
        use_external_data_format=True,
    )


def _ort_int4(source: Path, target: Path) -> None:
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

    made = MatMulNBitsQuantizer(onnx.load(source), bits=4, block_size=32, is_symmetric=False, accuracy_level=4)
    made.process()
    made.model.save_model_to_file(str(target), use_external_data_format=True)


TOOLS: dict[str, Callable[[Path, Path], None]] = {
    "int8 ours": _ours(8),
    "int8 onnxruntime": _ort_int8,
    "int4 ours": _ours(4),
    "int4 onnxruntime": _ort_int4,
}


def measure() -> Table:
    """Quantize models of two sizes with each tool in turns, and a larger one with ours."""
    rows: list[tuple[str, ...]] = []
    with tempfile.TemporaryDirectory(prefix="trimtab-streaming-") as folder:
        for layers, rounds in _SIZES.items():
            rows += _compare(Path(folder), layers, rounds)
        source = make(Path(folder), _LARGEST)
        for tool in ("int8 ours", "int4 ours"):
            done = _run(tool, source)
            rows.append((f"{_size(_LARGEST)} to {tool}", f"{done.seconds:.1f} s", f"{done.peak:.0f} MiB", "", ""))
    how = (
        "Matrices of 4096 x 4096, random; seconds of a whole process with its start and the writing to disk; tools "
        "in turns. Median (smallest to largest). Ratios are onnxruntime's by ours, of each turn."
    )
    return Table(how, ("model and tool", "seconds", "most memory", "times as fast", "part of the memory"), tuple(rows))


def _compare(folder: Path, layers: int, rounds: int) -> Iterator[tuple[str, ...]]:
    source = make(folder, layers)
    for dtype in ("int8", "int4"):
        runs: dict[str, list[Run]] = {f"{dtype} ours": [], f"{dtype} onnxruntime": []}
        for _ in range(rounds):
            for tool, found in runs.items():
                found.append(_run(tool, source))
        ours, peer = runs.values()
        faster = ratios([run.seconds for run in peer], [run.seconds for run in ours])
        part = statistics.median([run.peak for run in ours]) / statistics.median([run.peak for run in peer])
        yield (*_row(layers, f"{dtype} ours", ours), spread(faster, digits=1), f"{part:.3f}")
        yield (*_row(layers, f"{dtype} onnxruntime", peer), "1", "1")
    shutil.rmtree(source.parent)


def _row(layers: int, tool: str, runs: list[Run]) -> tuple[str, str, str]:
    seconds = spread([run.seconds for run in runs], " s", 1)
    return f"{_size(layers)} to {tool}", seconds, f"{max(run.peak for run in runs):.0f} MiB"


def _size(layers: int) -> str:
    return f"{layers * _WIDTH * _WIDTH * 4 / _GB:.2f} GB"


def _run(tool: str, source: Path) -> Run:
    with tempfile.TemporaryDirectory(dir=source.parent) as folder:
        return run([sys.executable, __file__, tool, source, Path(folder) / "model.onnx"])


def make(folder: Path, layers: int, width: int = _WIDTH) -> Path:
    """Write a model whose weights lie beside its graph, layer by layer."""
    from trimtab_testing.graphs import chain, tensor_beside  # late: it brings onnxruntime into the processes measured

    path = folder / str(layers) / "model.onnx"
    path.parent.mkdir()
    random = np.random.default_rng(0)
    with (path.parent / "weights.bin").open("wb") as file:
        for _ in range(layers):
            random.standard_normal((width, width), np.float32).tofile(file)
    step = width * width * 4
    return chain(path, [tensor_beside(f"w{number}", (width, width), number * step) for number in range(layers)])


if __name__ == "__main__":
    TOOLS[sys.argv[1]](Path(sys.argv[2]), Path(sys.argv[3]))
    print(peak())
