"""Ours beside Olive, ONNX Runtime's own tools, the model builder of onnxruntime-genai, and AutoRound.

Each tool runs in a process and an environment of its own, with pinned requirements (environments.py). A first run of
each is not counted: it fills caches (bytecode, files, what AutoRound compiles), and its result has to answer like the
float model. Then all of them, in turns. `PEERS=small` is a run of minutes which leaves the page as it is.
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import streaming
from environments import PINS, interpreter, surroundings
from figures import Table, ratios, spread
from numpy.typing import NDArray
from processes import Run, run

_OURS = ""  # the environment that this runs in
_PACKAGES = {"olive": "olive-ai", "genai": "onnxruntime-genai", "autoround": "auto-round"}
_RESULT = "model.onnx"
_HOW = (
    "Random weights; seconds of a whole process with its start and the writing to disk; tools in turns, {rounds} times "
    "after a first run that is not counted. Median (smallest to largest). Memory is that of the largest process of a "
    "tool, and AutoRound has two. Each ratio is the tool's by ours, of each turn: what is above 1 speaks for ours. "
    "The last column is how far the answers are from those of the float model, as a part of their norm. "
    "Blocks of 32, with zero points, in all that is int4. {versions}."
)


@dataclass(frozen=True, slots=True)
class Size:
    """Matrices of `width` in `layers`; a checkpoint of Llama's architecture with `hidden` channels in `blocks`."""

    layers: int
    width: int
    hidden: int
    blocks: int
    rounds: int


SIZES = {"full": Size(16, 4096, 2048, 8, 3), "small": Size(8, 1024, 256, 2, 1)}  # 1.07 GB and 1.0 GB; 34 and 7 MB


@dataclass(frozen=True, slots=True)
class Tool:
    """What is shown of a tool, the environment and the program that has it, and its name there."""

    shown: str
    environment: str
    program: Path
    name: str
    answers: str  # the kind in peers/answers.py


@dataclass(frozen=True, slots=True)
class Contest:
    """One task; the first tool is ours. Answers may differ from the float model's by `allowed` of their norm.

    Random weights lose more in few bits than trained ones, the more so the wider and deeper the model: rounding them to
    int4 costs 0.18 at 2 blocks of 256 channels and 0.32 at 8 of 1024. Answers of another model differ by about 1.4.
    """

    task: str
    answers: str
    allowed: float
    tools: tuple[Tool, ...]


def _tool(shown: str, environment: str, name: str, answers: str = "chain") -> Tool:
    return Tool(shown, environment, PINS / "tools.py", name, answers)


def _streaming(shown: str, name: str) -> Tool:
    return Tool(shown, _OURS, Path(streaming.__file__), name, "chain")


CONTESTS = (
    Contest(
        "ONNX to int8, dynamic",
        "chain",
        0.2,
        (
            _streaming("ours", "int8 ours"),
            _tool("Olive", "olive", "olive int8"),
            _tool("Olive, without its preprocessing", "olive", "olive int8 bare"),
            _streaming("onnxruntime", "int8 onnxruntime"),
        ),
    ),
    Contest(
        "ONNX to int4",
        "chain",
        0.6,
        (
            _streaming("ours", "int4 ours"),
            _tool("Olive", "olive", "olive int4"),
            _streaming("onnxruntime", "int4 onnxruntime"),
        ),
    ),
    Contest(
        "checkpoint to int4",
        "checkpoint",
        0.6,
        (
            _tool("ours, to ONNX", _OURS, "checkpoint ours", "tokens"),
            _tool("onnxruntime-genai, to ONNX", "genai", "genai", "tokens"),
            _tool("AutoRound, to safetensors", "autoround", "autoround", "checkpoint"),
        ),
    ),
)


def measure() -> Table:
    """Let the tools do each task in turns."""
    chosen = os.environ.get("PEERS", "full")
    size = SIZES[chosen]
    for name in _PACKAGES:
        interpreter(name)
    rows = [row for contest in CONTESTS for row in _hold(contest, size)]
    how = _HOW.format(rounds=size.rounds, versions=", ".join(map(_version, _PACKAGES)))
    head = ("task", "tool", "seconds", "by ours", "most memory", "by ours", "written", "answers differ by")
    return Table(how, head, tuple(rows), kept=chosen == "full")


def _hold(contest: Contest, size: Size) -> list[tuple[str, ...]]:
    """Return the rows of one task."""
    with tempfile.TemporaryDirectory(prefix="trimtab-peers-") as made:
        folder = Path(made)
        source = (_checkpoint if contest.answers == "checkpoint" else _chain)(folder, size)
        task = f"{_bytes(source if source.is_dir() else source.parent) / 1e9:.2f} GB {contest.task}"
        expected = _answers(contest.answers, _OURS, source)
        results = {tool: _first(tool, source, expected, contest.allowed) for tool in contest.tools}
        runs: dict[Tool, list[Run]] = {tool: [] for tool in contest.tools}
        for _ in range(size.rounds):
            for tool, found in runs.items():
                with tempfile.TemporaryDirectory(dir=folder) as target:
                    found.append(_run(tool, source, Path(target)))
                print(f"{tool.shown}: {found[-1].seconds:.1f} s, {found[-1].peak:.0f} MiB", flush=True)
        ours = runs[contest.tools[0]]
        return [(task, tool.shown, *_figures(found, ours), *results[tool]) for tool, found in runs.items()]


def _figures(runs: Sequence[Run], ours: Sequence[Run]) -> tuple[str, str, str, str]:
    """Return seconds and memory, each with its ratio to ours."""
    seconds, base = ([item.seconds for item in items] for items in (runs, ours))
    peak, least = (max(item.peak for item in items) for items in (runs, ours))
    if runs is ours:
        return spread(seconds, " s", 1), "1", f"{peak:.0f} MiB", "1"
    return spread(seconds, " s", 1), spread(ratios(seconds, base), digits=1), f"{peak:.0f} MiB", f"{peak / least:.1f}"


def _first(tool: Tool, source: Path, expected: NDArray[Any], allowed: float) -> tuple[str, str]:
    """Run a tool once; return the size of its result and how far its answers are from the float model's.

    Raises RuntimeError where they are further than allowed: nobody is timed on a broken result.
    """
    with tempfile.TemporaryDirectory(dir=source.parent) as made:
        folder = Path(made)
        done = _run(tool, source, folder)
        found = _answers(tool.answers, tool.environment, folder if tool.answers == "checkpoint" else folder / _RESULT)
        error = float(np.linalg.norm(found - expected) / np.linalg.norm(expected))
        print(f"{tool.shown}, not counted: {done.seconds:.1f} s, {done.peak:.0f} MiB, error {error:.3f}", flush=True)
        if not error <= allowed:  # so, and not the other way round: what is no number fails too
            raise RuntimeError(f"{tool.shown} answers something else: {error:.3f} of the norm, allowed is {allowed}")
        return f"{_bytes(folder) / (1 << 20):.1f} MiB", f"{error:.3f}"


def _run(tool: Tool, source: Path, folder: Path) -> Run:
    command = [_python(tool.environment), tool.program, tool.name, source, folder / _RESULT]
    return run(command, surroundings(tool.environment))


def _answers(kind: str, environment: str, model: Path) -> NDArray[Any]:
    """Return what a model answers, asked where it can be loaded."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "answers.npy"
        _call([_python(environment), PINS / "answers.py", kind, model, file], environment)
        return np.load(file).astype(np.float64)


def _chain(folder: Path, size: Size) -> Path:
    return streaming.make(folder, size.layers, size.width)


def _checkpoint(folder: Path, size: Size) -> Path:
    target = folder / "checkpoint"
    _call([sys.executable, PINS / "checkpoint.py", target, str(size.hidden), str(size.blocks)], _OURS)
    return target


def _call(command: Sequence[str | Path], environment: str) -> None:
    done = subprocess.run(command, env=surroundings(environment), capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(map(str, command))}:\n{done.stderr[-3000:]}")


def _python(environment: str) -> Path:
    return interpreter(environment) if environment else Path(sys.executable)


def _bytes(folder: Path) -> int:
    """Return the bytes of a model; tools keep what is their own in folders beside it, and copy a tokenizer."""
    files = (file for file in folder.iterdir() if file.is_file() and not file.name.startswith("tokenizer"))
    return sum(file.stat().st_size for file in files)


def _version(environment: str) -> str:
    package = _PACKAGES[environment]
    line = next(
        line for line in (PINS / f"{environment}.txt").read_text().splitlines() if line.startswith(f"{package}==")
    )
    return line.replace("==", " ")
