"""TorchScript, by opt-in: it is turned into a torch.export program, which has to answer the same, and goes on as one.

Reading TorchScript can run code: it unpickles objects of any class that is registered, and its operators write files.
"""

import warnings
from pathlib import Path
from typing import Any, Final

import torch
from torch._export.converter import TS2EPConverter  # the only way from TorchScript to a program; torch is pinned

from trimtab_api.errors import InvalidPackage, UnsafeFormat
from trimtab_optimizer.importers.code import flat
from trimtab_optimizer.importers.programs.archive import read_archive
from trimtab_optimizer.importers.pytorch import load_module, ordered_outputs
from trimtab_optimizer.importers.torch_export import lay_out_archive
from trimtab_optimizer.package import Model
from trimtab_optimizer.tensors import example_inputs, relative_difference

# Largest difference between TorchScript and program, relative to the largest output where that is above one.
TOLERANCE: Final = 1e-4

_EXAMPLE_ROWS: Final = 2
_COMPARED_ROWS: Final = (1, 3, 64)
_SEED: Final = 0
_MEND: Final = "script the module, or trace it without lengths that are written out (x.flatten(1), not x.view(2, -1))"


def import_torchscript(model: Model, target: Path, allow_pickle: bool) -> Model:
    """Lay TorchScript out in `target` as a program. Raises UnsafeFormat without the opt-in, InvalidPackage."""
    name = model.weights.name
    if not allow_pickle:
        mend = "set spec.model.allowPickle: true if you trust its origin, or give the program of torch.export.save"
        raise UnsafeFormat(f"{name} is TorchScript: reading it can run code and write files; {mend}")
    script = _load(model.weights)
    made = _converted(script, model, target)
    _compare(script, made)
    return made


def _load(path: Path) -> torch.jit.ScriptModule:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # TorchScript is deprecated, which is no news to who has some
            script: torch.jit.ScriptModule = torch.jit.load(str(path), map_location="cpu")  # type: ignore[no-untyped-call]
    except Exception as error:
        mend = "write it with torch.jit.save; weights of torch.save are format: pytorch"
        raise InvalidPackage(f"{path.name} is not TorchScript that can be read here ({flat(error)}); {mend}") from error
    return script.eval()


def _converted(script: torch.jit.ScriptModule, model: Model, target: Path) -> Model:
    inputs = example_inputs(model.package.inputs, _EXAMPLE_ROWS, _SEED)
    rows = tuple(torch.from_numpy(value) for value in inputs.values())
    file = target.with_name(f"{target.name}.pt2")
    file.parent.mkdir(parents=True, exist_ok=True)
    _run(script, model, _EXAMPLE_ROWS)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.export.save(TS2EPConverter(script, rows).convert(), file)
    except Exception as error:
        said = f"{type(error).__name__}: {flat(error)}"
        mend = "give the module itself as a PyTorch package, export it with torch.export, or convert it to ONNX"
        raise InvalidPackage(f"this TorchScript cannot be turned into a program ({said}); {mend}") from error
    made = lay_out_archive(read_archive(file), model.package, target, _MEND)
    file.unlink()
    return made


def _compare(script: torch.jit.ScriptModule, made: Model) -> None:
    """Raise InvalidPackage where the program answers something else than the TorchScript it was made of."""
    module = load_module(made, allow_pickle=False)
    for rows in _COMPARED_ROWS:
        wanted, found = _run(script, made, rows), _run(module, made, rows)
        for tensor, one, two in zip(made.package.outputs, wanted, found, strict=True):
            if one.shape != two.shape or relative_difference(one.double().numpy(), two.double().numpy()) > TOLERANCE:
                said = f"the program made of it answers {tensor.name} differently for {rows} rows"
                raise InvalidPackage(f"this TorchScript cannot be taken over: {said}; give the module or an ONNX file")


def _run(module: Any, model: Model, rows: int) -> list[torch.Tensor]:
    inputs = example_inputs(model.package.inputs, rows, _SEED + rows)
    try:
        with torch.inference_mode():
            found = module(*(torch.from_numpy(value) for value in inputs.values()))
    except Exception as error:
        shapes = ", ".join(f"{tensor.name} {list(tensor.shape)}" for tensor in model.package.inputs)
        said = f"cannot take {rows} rows of the inputs of model.yaml ({shapes}): {flat(error)[-300:]}"
        raise InvalidPackage(f"this TorchScript {said}; {_MEND}") from error
    return ordered_outputs(found, model.package)
