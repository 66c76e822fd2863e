"""A trained example in formats that bring no code of its own: an exported program, and TorchScript."""

import warnings
from pathlib import Path
from typing import Any, Final

import torch
import yaml

from trimtab_api.spec import ModelFormat
from trimtab_optimizer.importers.pytorch import load_module
from trimtab_optimizer.package import load_package
from trimtab_optimizer.tensors import example_inputs

_KEPT: Final = ("name", "inputs", "outputs", "labels")


def taken_over(model: Path, kind: str, folder: Path) -> Path:
    """Write a PyTorch package as one of another format into a folder that is made, and return it."""
    package = load_package(model)
    module = load_module(package, allow_pickle=False)
    rows = tuple(torch.from_numpy(value) for value in example_inputs(package.package.inputs, 2, 0).values())
    folder.mkdir(parents=True)
    manifest: dict[str, Any] = yaml.safe_load((model / "model.yaml").read_text())
    kept = {key: value for key, value in manifest.items() if key in _KEPT}
    (folder / "model.yaml").write_text(yaml.safe_dump({"format": kind, **kept}))
    if kind == ModelFormat.TORCH_EXPORT:
        free = tuple({0: torch.export.Dim("batch")} for _ in rows)
        torch.export.save(torch.export.export(module, rows, dynamic_shapes=free), folder / "model.pt2")
    else:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # TorchScript is deprecated
            torch.jit.save(torch.jit.trace(module, rows), str(folder / "model.pt"))  # type: ignore[no-untyped-call]
    return folder
