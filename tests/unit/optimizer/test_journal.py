"""Work that was killed goes on where it was: the same bytes, and little done twice."""

import contextlib
import itertools
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto
from safetensors.numpy import save_file

from trimtab_optimizer.streaming.edits import Clipped, by_magnitude, clip_at, zero_smallest
from trimtab_optimizer.streaming.journal import FLUSHED, Journal
from trimtab_optimizer.streaming.output import Sink
from trimtab_optimizer.streaming.reweigh import reweigh_onnx, reweigh_safetensors, write_edited
from trimtab_optimizer.streaming.rewrite import rewrite
from trimtab_optimizer.streaming.schemes import DynamicInt8, Stored
from trimtab_optimizer.streaming.slices import Slice, write_slices
from trimtab_optimizer.streaming.weights import stored_weights
from trimtab_testing.graphs import chain, tensor_beside

_MOST_LOST = 256 << 20
_SIDE, _MATRICES = 4096, 24
_PIECES = {"halve": 16 << 20, "clip_graph": 4 << 20, "prune_stored": 4 << 20, "take_rows": 2 << 20}  # bytes

HALF = Stored(TensorProto.BFLOAT16)

WORKER = """
import sys
from pathlib import Path
from test_journal import WORK
print("ready", flush=True)
WORK[sys.argv[1]](Path(sys.argv[2]), Path(sys.argv[3]), "the key of this test")
"""


def halve(source: Path, folder: Path, key: str | None) -> None:
    rewrite(source / "model.onnx", folder / "model.onnx", HALF, key=key)


def clip_graph(source: Path, folder: Path, key: str | None) -> None:
    reweigh_onnx(source / "model.onnx", folder / "model.onnx", folder, clip_at(99.0), (), key)


def prune_stored(source: Path, folder: Path, key: str | None) -> None:
    choice = zero_smallest(by_magnitude, 0.5, together=False)
    reweigh_safetensors(source / "model.safetensors", folder / "model.safetensors", choice, (), key)


def take_rows(source: Path, folder: Path, key: str | None) -> None:
    rows = {0: np.arange(0, _SIDE, 2)}
    slices = {name: Slice(weight, rows) for name, weight in stored_weights(source / "model.safetensors").items()}
    write_slices(slices, folder / "model.safetensors", key)


_MOMENTS = {"halve": (0, 0.3), "clip_graph": (0.2, 0.8), "prune_stored": (0, 0.6), "take_rows": (0, 0.6)}  # of the time
_KILLS = {"halve": 20, "clip_graph": 6, "prune_stored": 6, "take_rows": 6}
WORK = {work.__name__: work for work in (halve, clip_graph, prune_stored, take_rows)}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a model of 1.5 GiB, as a graph and as safetensors; the graph's matrices lie each a row further on."""
    folder = tmp_path_factory.mktemp("large")
    values = np.random.default_rng(0).standard_normal((_SIDE + _MATRICES, _SIDE), np.float32)
    values.tofile(folder / "weights.bin")
    step = _SIDE * 4
    chain(folder / "model.onnx", [tensor_beside(f"w{n}", (_SIDE, _SIDE), n * step) for n in range(_MATRICES)])
    save_file({f"w{n}": values[n : n + _SIDE] for n in range(_MATRICES)}, folder / "model.safetensors")
    return folder


def bytes_of(folder: Path) -> dict[str, bytes]:
    """Return what the files of a folder hold."""
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file()}


@pytest.mark.parametrize("name", WORK)
def test_a_process_that_is_killed_again_and_again_ends_with_the_same_bytes_and_loses_little(
    name: str, source: Path, tmp_path: Path
) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    whole.mkdir()
    killed.mkdir()
    start = time.monotonic()
    WORK[name](source, whole, None)
    seconds, moments, lost, kept = time.monotonic() - start, random.Random(7), 0, 0
    for _ in range(_KILLS[name]):
        before = pieces_safe(killed)
        process = subprocess.Popen(
            [sys.executable, "-c", WORKER, name, source, killed],
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])},
        )
        assert process.stdout
        process.stdout.readline()
        time.sleep(moments.uniform(*_MOMENTS[name]) * seconds)
        written = written_by(process.pid)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()
        if is_done(killed):  # it was done before: the next one begins anew
            assert bytes_of(killed) == bytes_of(whole)
            for path in killed.iterdir():
                path.unlink()
            continue
        lost = max(lost, written - (pieces_safe(killed) - before) * _PIECES[name])
        kept = max(kept, pieces_safe(killed))
    WORK[name](source, killed, "the key of this test")

    assert bytes_of(killed) == bytes_of(whole)
    assert lost <= _MOST_LOST
    assert kept * _PIECES[name] >= FLUSHED


@pytest.mark.parametrize("name", WORK)
def test_what_one_process_made_safe_the_next_does_not_write_again(
    name: str, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = written_by(os.getpid())
    WORK[name](source, tmp_path, None)
    whole = written_by(os.getpid()) - before
    for path in tmp_path.iterdir():
        path.unlink()
    with monkeypatch.context() as patch:
        patch.setattr(Sink, "flush", dying_on_call(3, Sink.flush))
        with pytest.raises(KeyboardInterrupt):
            WORK[name](source, tmp_path, "the key of this test")
    safe, before = pieces_safe(tmp_path) * _PIECES[name], written_by(os.getpid())

    WORK[name](source, tmp_path, "the key of this test")

    assert safe >= 2 * FLUSHED
    assert written_by(os.getpid()) - before <= whole - safe + (4 << 20)  # the journal, and a piece that is a header


def dying_on_call(number: int, flush: Callable[[Sink], None]) -> Callable[[Sink], None]:
    """Return a way to flush that works until it is called for the nth time."""
    calls = itertools.count(1)

    def until_then(sink: Sink) -> None:
        if next(calls) >= number:
            raise KeyboardInterrupt
        flush(sink)

    return until_then


def is_done(folder: Path) -> bool:
    """Tell whether a worker has finished: its journal is gone."""
    return any(folder.iterdir()) and not list(folder.glob("*.journal"))


def pieces_safe(folder: Path) -> int:
    """Return how many pieces a journal has, each counted once."""
    lines = {line for journal in folder.glob("*.journal") for line in journal.read_text().split("\n")}
    return sum(line.isdigit() for line in lines)


def written_by(pid: int) -> int:
    """Return how many bytes a process has handed to the system."""
    lines = Path(f"/proc/{pid}/io").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("wchar")).split()[1])


def test_a_journal_of_other_work_is_not_gone_on_with(source: Path, tmp_path: Path) -> None:
    target = tmp_path / "model.onnx"
    (tmp_path / "model.onnx.journal").write_text("other weights\n0\n1\n2\n3\n")
    rewrite(source / "model.onnx", target, DynamicInt8(), key="these weights")
    expected = tmp_path / "whole"
    expected.mkdir()
    rewrite(source / "model.onnx", expected / "model.onnx", DynamicInt8())

    assert bytes_of(expected) == bytes_of(tmp_path)


def test_a_line_that_was_cut_off_is_no_part_of_the_next_one(tmp_path: Path) -> None:
    output = tmp_path / "model.onnx"
    output.touch()
    (tmp_path / "model.onnx.journal").write_text('key\n3\n["of w", 7]\n12')

    assert Journal(output, "key").remember("of v", lambda: 5) == 5
    again = Journal(output, "key")

    assert again.remember("of w", lambda: 0) == 7
    assert again.remember("of v", lambda: 0) == 5
    assert (tmp_path / "model.onnx.journal").read_text() == 'key\n3\n["of w", 7]\n["of v", 5]\n'


def test_where_the_output_is_gone_no_piece_of_it_counts_and_what_was_found_does(tmp_path: Path) -> None:
    output, written = tmp_path / "model.onnx.data", [0, 0]
    (tmp_path / "model.onnx.journal").write_text('key\n0\n["of w", 7]\n1\n')
    journal = Journal(tmp_path / "model.onnx", "key")

    with Sink(output, journal.goes_on) as sink:
        for number, piece in enumerate(journal.left([partial(written.__setitem__, n, 1) for n in (0, 1)], sink)):
            piece()
            assert number < 2

    assert written == [1, 1]
    assert (tmp_path / "model.onnx.journal").read_text() == 'key\n["of w", 7]\n'


def test_edits_of_other_weights_are_other_work(source: Path, tmp_path: Path) -> None:
    edits = [{name: (Clipped(0.5),)} for name in ("w0", "w1")]
    for folder, made in (("whole", edits[1:]), ("killed", edits)):
        (tmp_path / folder).mkdir()
        for number, found in enumerate(made):
            is_last = number == len(made) - 1
            with pytest.MonkeyPatch.context() as patch:
                if not is_last:
                    patch.setattr(Journal, "forget", die)
                with contextlib.nullcontext() if is_last else pytest.raises(KeyboardInterrupt):
                    write_edited(source / "model.onnx", tmp_path / folder / "model.onnx", found, "the same key")

    assert bytes_of(tmp_path / "whole") == bytes_of(tmp_path / "killed")


def die(*_: object) -> None:
    raise KeyboardInterrupt


def test_what_is_finished_leaves_no_journal_and_no_half_a_graph(source: Path, tmp_path: Path) -> None:
    rewrite(source / "model.onnx", tmp_path / "model.onnx", DynamicInt8(), key="weights")

    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.onnx", "model.onnx.data"]
    assert FLUSHED < _MOST_LOST
