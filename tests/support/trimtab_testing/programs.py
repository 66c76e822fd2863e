"""Small exported programs and TorchScript as packages, and archives with other content than torch writes."""

import json
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import torch
import yaml
from torch import nn

from trimtab_api.spec import ModelSource
from trimtab_optimizer.importers import import_source
from trimtab_optimizer.package import Model

PROGRAM: Final = "torch-export"
SCRIPT: Final = "torchscript"
BATCH: Final = torch.export.Dim("batch")
INPUTS: Final = [{"name": "x", "shape": [-1, 4]}]
OUTPUTS: Final = [{"name": "y", "shape": [-1, 3]}]


class Linear(nn.Linear):
    def __init__(self) -> None:
        super().__init__(4, 3)


def exported(module: nn.Module, *rows: Any, **options: Any) -> torch.export.ExportedProgram:
    """Export a module with a free batch."""
    options = {"dynamic_shapes": ({0: BATCH},)} | options
    return torch.export.export(module.eval(), rows or (torch.randn(2, 4),), **options)


def write(folder: Path, model: Any, kind: str = PROGRAM, **changes: Any) -> Path:
    """Write the package of a program, or of TorchScript."""
    folder.mkdir()
    manifest = {"name": "linear", "format": kind, "inputs": INPUTS, "outputs": OUTPUTS} | changes
    (folder / "model.yaml").write_text(yaml.safe_dump(manifest))
    if kind == PROGRAM:
        torch.export.save(model, folder / "model.pt2")
    else:
        torch.jit.save(model, str(folder / "model.pt"))
    return folder


def imported(folder: Path, kind: str = PROGRAM, allow_pickle: bool = False) -> Model:
    source = ModelSource(uri="oci://a/b:c", format=kind, allow_pickle=allow_pickle)
    return import_source(source, folder, folder.with_name(f"{folder.name}-imported"))


def repacked(file: Path, changes: dict[str, bytes]) -> None:
    """Write an archive again with other content in some of its members, by the end of their names."""
    with zipfile.ZipFile(file) as old:
        content = {info.filename: old.read(info) for info in old.infolist()}
    root = next(iter(content)).partition("/")[0]
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as new:
        for name, data in (content | {f"{root}/{name}": data for name, data in changes.items()}).items():
            new.writestr(name, data)


def edited(file: Path, member: str, edit: Callable[[Any], None]) -> None:
    """Edit the JSON of a member of an archive."""
    with zipfile.ZipFile(file) as old:
        (name,) = [name for name in old.namelist() if name.endswith(member)]
        content = json.loads(old.read(name))
    edit(content)
    repacked(file, {member: json.dumps(content).encode()})


class Trap:
    """Makes a folder when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> tuple[Any, tuple[str, int]]:
        return os.mkdir, (str(self._path), 0o700)
