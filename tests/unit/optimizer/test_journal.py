"""Work that was killed goes on where it was: the same bytes, and little done twice."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto

from trimtab_optimizer.streaming.journal import FLUSHED
from trimtab_optimizer.streaming.rewrite import rewrite
from trimtab_optimizer.streaming.schemes import DynamicInt8, Stored
from trimtab_testing.graphs import chain, tensor_beside

_MOST_LOST = 256 << 20
_KILLS = 20
_SIDE, _MATRICES = 4096, 24
_PIECE = 16 << 20  # of bfloat16

HALF = Stored(TensorProto.BFLOAT16)

WORKER = """
import sys
from pathlib import Path
from onnx import TensorProto
from trimtab_optimizer.streaming.rewrite import rewrite
from trimtab_optimizer.streaming.schemes import Stored
print("ready", flush=True)
rewrite(Path(sys.argv[1]), Path(sys.argv[2]), Stored(TensorProto.BFLOAT16), key="weights of this test")
"""


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a model whose output is 768 MiB in bfloat16; its matrices lie in one file, each a row further on."""
    folder = tmp_path_factory.mktemp("large")
    np.random.default_rng(0).standard_normal((_SIDE + _MATRICES, _SIDE), np.float32).tofile(folder / "weights.bin")
    step = _SIDE * 4
    return chain(folder / "model.onnx", [tensor_beside(f"w{n}", (_SIDE, _SIDE), n * step) for n in range(_MATRICES)])


def bytes_of(folder: Path) -> dict[str, bytes]:
    """Return what the files of a folder hold."""
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file()}


def test_a_process_killed_at_twenty_moments_ends_with_the_same_bytes_and_loses_little(
    source: Path, tmp_path: Path
) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    whole.mkdir()
    killed.mkdir()
    start = time.monotonic()
    rewrite(source, whole / "model.onnx", HALF)
    seconds, moments, lost, kept = time.monotonic() - start, random.Random(7), 0, 0
    for _ in range(_KILLS):
        before = flushed(killed)
        process = subprocess.Popen(
            [sys.executable, "-c", WORKER, source, killed / "model.onnx"], stdout=subprocess.PIPE
        )
        assert process.stdout
        process.stdout.readline()
        time.sleep(moments.uniform(0, seconds / 3))
        written = written_by(process.pid)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()
        if (killed / "model.onnx").exists():  # it was done before: the next one begins anew
            assert bytes_of(killed) == bytes_of(whole)
            for path in killed.iterdir():
                path.unlink()
            continue
        lost = max(lost, written - (flushed(killed) - before))
        kept = max(kept, flushed(killed))
    rewrite(source, killed / "model.onnx", HALF, key="weights of this test")

    assert bytes_of(killed) == bytes_of(whole)
    assert lost <= _MOST_LOST
    assert kept >= FLUSHED


def flushed(folder: Path) -> int:
    """Return the bytes of the pieces that a journal has; all pieces of this model are as large."""
    journal = folder / "model.onnx.journal"
    if not journal.exists():
        return 0
    return sum(line.isdigit() for line in journal.read_text().split("\n")) * _PIECE


def written_by(pid: int) -> int:
    """Return how many bytes a process has handed to the system."""
    lines = Path(f"/proc/{pid}/io").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("wchar")).split()[1])


def test_a_journal_of_other_work_is_not_gone_on_with(source: Path, tmp_path: Path) -> None:
    target = tmp_path / "model.onnx"
    (tmp_path / "model.onnx.journal").write_text("other weights\n0\n1\n2\n3\n")
    rewrite(source, target, DynamicInt8(), key="these weights")
    expected = tmp_path / "whole"
    expected.mkdir()
    rewrite(source, expected / "model.onnx", DynamicInt8())

    assert bytes_of(expected) == bytes_of(tmp_path)


def test_what_is_finished_leaves_no_journal_and_no_half_a_graph(source: Path, tmp_path: Path) -> None:
    rewrite(source, tmp_path / "model.onnx", DynamicInt8(), key="weights")

    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.onnx", "model.onnx.data"]
    assert FLUSHED < _MOST_LOST
