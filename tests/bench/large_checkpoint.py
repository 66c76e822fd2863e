"""A checkpoint of 10^10 parameters to ONNX in int4: import, export without values, quantize, in one process.

The same run of ours as beside other tools (peers/tools.py), on a model that those could not hold.
"""

import json
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from environments import surroundings
from figures import Table
from processes import Run, forget, run

_GB = 1e9
_PIECE = 64 << 20
_TOOLS = Path(__file__).parent / "peers/tools.py"
_CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 5120,
    "intermediate_size": 13824,
    "num_attention_heads": 40,
    "num_key_value_heads": 40,
    "num_hidden_layers": int(os.environ.get("TRIMTAB_BENCH_LAYERS", "31")),
    "vocab_size": 32000,
    "max_position_embeddings": 2048,
    "tie_word_embeddings": False,
}


def measure() -> Table:
    """Make int4 of a checkpoint in bfloat16, beside what the disk takes to read and write as many bytes."""
    with tempfile.TemporaryDirectory(prefix="trimtab-checkpoint-") as made:
        folder, target = Path(made) / "source", Path(made) / "target"
        count = _make(folder)
        weights = folder / "model.safetensors"
        before = _seconds_to_read(weights)
        forget(weights)
        done, written = _run(folder, target)
        shutil.rmtree(target)
        disk = (before + _seconds_to_read(weights)) / 2 + _seconds_to_write(Path(made) / "written", written)
    moved = f"{2 * count / _GB:.1f} GB read, {written / _GB:.1f} GB written"
    how = (
        "A Llama in bfloat16 with random weights, none of it in the page cache: import, export to ONNX, int4 in blocks "
        "of 32; a whole process with its start, flushed to disk. The disk alone: as many bytes read (before and after, "
        "the mean) and written, in pieces of 64 MB."
    )
    head = ("parameters", "moved", "seconds", "most memory", "seconds of the disk alone", "of the disk's rate")
    row = (
        f"{count / 1e9:.2f}e9",
        moved,
        f"{done.seconds:.0f}",
        f"{done.peak:.0f} MiB",
        f"{disk:.0f}",
        f"{disk / done.seconds:.0%}",
    )
    return Table(how, head, (row,))


def _run(folder: Path, target: Path) -> tuple[Run, int]:
    """Return the process, and the bytes that it wrote."""
    target.mkdir()
    done = run([sys.executable, _TOOLS, "checkpoint ours", folder, target / "model.onnx"], surroundings(""))
    return done, sum(file.stat().st_size for file in target.glob("model.onnx*"))


def _make(folder: Path) -> int:
    """Write a checkpoint and return how many parameters it has."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(_CONFIG))
    header: dict[str, Any] = {}
    end = 0
    for name, shape in _shapes().items():
        size = 2 * int(np.prod(shape))
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    values = np.random.default_rng(0).standard_normal(_PIECE // 4, np.float32) / 64
    piece = (values.view(np.uint32) >> 16).astype(np.uint16)
    with (folder / "model.safetensors").open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        left = end // 2
        while left:
            part = np.roll(piece, left % len(piece))[: min(left, len(piece))]
            part.tofile(file)
            left -= len(part)
        os.fsync(file.fileno())
    return end // 2


def _shapes() -> dict[str, tuple[int, ...]]:
    """Return names and shapes of the tensors of the class, which is built without values."""
    import torch
    from transformers import AutoConfig, LlamaForCausalLM

    with torch.device("meta"):
        module = LlamaForCausalLM(AutoConfig.for_model(**_CONFIG))
    return {name: tuple(value.shape) for name, value in module.state_dict().items()}


def _seconds_to_read(file: Path) -> float:
    forget(file)
    buffer = bytearray(_PIECE)
    started = time.monotonic()
    with file.open("rb", buffering=0) as opened:
        while opened.readinto(buffer):
            pass
    return time.monotonic() - started


def _seconds_to_write(file: Path, size: int) -> float:
    piece = np.random.default_rng(1).bytes(_PIECE)
    started = time.monotonic()
    with file.open("wb", buffering=0) as opened:
        for left in range(size, 0, -_PIECE):
            opened.write(piece[: min(left, _PIECE)])
        os.fsync(opened.fileno())
    return time.monotonic() - started
