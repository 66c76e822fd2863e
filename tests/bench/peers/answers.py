"""What a model answers to fixed rows, in the environment that can load it: python answers.py KIND MODEL FILE

KIND is `chain` (ONNX, one float input), `tokens` (ONNX, a language model) or `checkpoint` (a Hugging Face folder). FILE
gets the answer as .npy. Every KIND but `chain` sees the same tokens.
"""

import sys
from pathlib import Path
from typing import Any

import numpy as np

_ROWS, _LENGTH = 4, 16
_FIRST = 3  # the tokens before it have a meaning of their own
_HEAD = 64  # channels of a head of attention, as checkpoint.py makes them; the model builder leaves them open
_NUMBER = {"tensor(int64)": np.int64, "tensor(int32)": np.int32, "tensor(float)": np.float32}


def _chain(path: Path) -> Any:
    session = _session(path)
    width = session.get_inputs()[0].shape[1]
    return session.run(None, {"x": np.random.default_rng(1).standard_normal((_ROWS, width), np.float32)})[0]


def _tokens(path: Path) -> Any:
    """Return logits; a model that wants what it computed for earlier tokens is told that there were none."""
    session = _session(path)
    feeds = {item.name: _value(item) for item in session.get_inputs()}
    return session.run(["logits"], feeds)[0]


def _checkpoint(folder: Path) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.inference_mode():
        return model(torch.from_numpy(_rows())).logits.float().numpy()


def _value(item: Any) -> Any:
    kind = _NUMBER[item.type]
    if item.name == "input_ids":
        return _rows().astype(kind)
    if item.name == "attention_mask":
        return np.ones((_ROWS, _LENGTH), kind)
    if item.name == "position_ids":
        return np.tile(np.arange(_LENGTH, dtype=kind), (_ROWS, 1))
    return np.zeros((_ROWS, item.shape[1], 0, _HEAD), kind)


def _rows() -> Any:
    return np.arange(_ROWS * _LENGTH).reshape(_ROWS, _LENGTH) + _FIRST


def _session(path: Path) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(path), options)


KINDS = {"chain": _chain, "tokens": _tokens, "checkpoint": _checkpoint}

if __name__ == "__main__":
    np.save(sys.argv[3], KINDS[sys.argv[1]](Path(sys.argv[2])))
