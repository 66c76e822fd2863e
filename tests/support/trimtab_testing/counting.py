"""The counting example as it is served: trained, and made a folder of ONNX Runtime GenAI by the library's builder."""

import os
import subprocess
import sys
from pathlib import Path

import yaml

_TRAIN = Path(__file__).parents[3] / "examples/counting/train.py"
_PACKAGE = {
    "name": "counting",
    "format": "genai",
    "inputs": [{"name": name, "datatype": "INT64", "shape": [-1, -1]} for name in ("input_ids", "attention_mask")],
    "outputs": [{"name": "logits", "datatype": "FP32", "shape": [-1, -1, -1]}],
}


def counting_folder(root: Path) -> Path:
    """Make the folder, which takes about 15 seconds, and return it."""
    source, folder = root / "model", root / "counting"
    _run(str(_TRAIN), "--out", str(root))
    options = [
        "-m",
        str(source),
        "-i",
        str(source),
        "-o",
        str(folder),
        "-p",
        "fp32",
        "-e",
        "cpu",
        "-c",
        str(root / "cache"),
    ]
    _run("-m", "onnxruntime_genai.models.builder", *options)
    (folder / "model.yaml").write_text(yaml.safe_dump(_PACKAGE))
    return folder


def _run(*arguments: str) -> None:
    environ = {**os.environ, "HF_HUB_OFFLINE": "1"}
    subprocess.run([sys.executable, *arguments], check=True, capture_output=True, env=environ)
