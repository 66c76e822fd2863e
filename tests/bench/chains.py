"""Passes over a large model on one reading of its weights, beside the same passes one by one.

python tests/bench/chains.py together|apart SOURCE TARGET     one run, as the benchmark starts it
"""

import sys
import tempfile
from pathlib import Path

import yaml
from figures import Table, ratios, spread
from processes import Run, forget, peak, run
from streaming import make

_LAYERS, _WIDTH = 64, 4096
_ROUNDS = 3
_GB = 1e9
_PASSES = (
    {"clip": {"percentile": 99.9}},
    {"prune": {"structure": "unstructured", "amount": 0.5}},
    {"quantize": {"dtype": "int4"}},
)


def _run(way: str, source: Path, target: Path) -> None:
    from trimtab_api.spec import OptimizationPass
    from trimtab_optimizer.chains import run_chain
    from trimtab_optimizer.package import load_package
    from trimtab_optimizer.passes import PASSES
    from trimtab_optimizer.passes.contract import Workplace

    model, items = load_package(source), [OptimizationPass.parse(item) for item in _PASSES]
    works = []
    for item in items:
        folder = target / item.kind
        (folder / "scratch").mkdir(parents=True)
        works.append(Workplace(folder / "made", folder / "scratch", 0, False, model, None))  # type: ignore[arg-type]
    if way == "together":
        run_chain(items, model, works)
        return
    for item, work in zip(items, works, strict=True):
        model = PASSES[item.kind].run(item, model, work).model


WAYS = {"together": "on one reading", "apart": "one by one"}


def measure() -> Table:
    """Clip, prune and quantize a model in both ways, in turns, from a disk whose cache has none of it."""
    runs: dict[str, list[Run]] = {way: [] for way in WAYS}
    with tempfile.TemporaryDirectory(prefix="trimtab-chains-") as folder:
        source = _package(Path(folder))
        for _ in range(_ROUNDS):
            for way, found in runs.items():
                forget(source / "weights.bin")
                with tempfile.TemporaryDirectory(dir=folder) as target:
                    found.append(run([sys.executable, __file__, way, source, target]))
    faster = ratios([item.seconds for item in runs["apart"]], [item.seconds for item in runs["together"]])
    rows = [
        (
            name,
            spread([item.seconds for item in runs[way]], " s", 1),
            f"{max(item.peak for item in runs[way]):.0f} MiB",
            *(f"{float(runs[way][-1].said.split()[place]) / _GB:.1f} GB" for place in (0, 1)),
            spread(faster, digits=1) if way == "together" else "1",
        )
        for way, name in WAYS.items()
    ]
    size = f"{_LAYERS * _WIDTH**2 * 4 / _GB:.2f} GB"
    how = (
        f"{_LAYERS} matrices of {_WIDTH} x {_WIDTH} in float32, {size}, none of it in the page cache: clip at a "
        "percentile, half of the weights zero, int4. A whole process with its start, flushed to disk; in turns. Median "
        "(smallest to largest). What the process had from the disk, and what it gave to it."
    )
    return Table(how, ("passes", "seconds", "most memory", "read", "written", "times as fast"), tuple(rows))


def _package(folder: Path) -> Path:
    source = make(folder, _LAYERS, _WIDTH).parent
    ends = [{"name": name, "datatype": "FP32", "shape": [-1, _WIDTH]} for name in ("x", "y")]
    manifest = {"name": "chain", "format": "onnx", "weights": "model.onnx", "inputs": ends[:1], "outputs": ends[1:]}
    (source / "model.yaml").write_text(yaml.safe_dump(manifest))
    return source


def _moved(name: str) -> int:
    """Return bytes that this process had from a disk (`read_bytes`) or gave to it (`write_bytes`)."""
    lines = Path("/proc/self/io").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(name)).split()[1])


if __name__ == "__main__":
    _run(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
    print(_moved("read_bytes"), _moved("write_bytes"), peak())
