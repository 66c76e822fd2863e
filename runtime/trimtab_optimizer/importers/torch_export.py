"""torch.export programs: a .pt2 file becomes a PyTorch package, without running anything that it brings."""

import math
from pathlib import Path
from typing import Any, Final

import torch
from torch import nn
from torch.export import ExportedProgram

from trimtab_api.errors import InvalidPackage
from trimtab_api.package import ModelPackage, Tensor
from trimtab_optimizer.importers.programs.archive import Archive, read_archive
from trimtab_optimizer.importers.programs.graph import by_position, checked_program, names_of_inputs
from trimtab_optimizer.importers.programs.layout import lay_out
from trimtab_optimizer.importers.programs.module import read_program, user_inputs
from trimtab_optimizer.importers.pytorch import load_module, ordered_outputs, torch_dtype_of
from trimtab_optimizer.package import Model
from trimtab_optimizer.tensors import check_shape, example_inputs

_MEND: Final = 'export it with dynamic_shapes, {0: torch.export.Dim("batch")} for each input'
_EVAL: Final = "call model.eval() before torch.export.export"
_LEAST: Final = 2  # what torch writes for an axis of any length that is not stated; one row is computed all the same
_UNBOUNDED: Final = 1 << 31


def import_torch_export(model: Model, target: Path) -> Model:
    """Lay a program out in `target` as a PyTorch package. Raises InvalidPackage or UnsafeFormat."""
    return lay_out_archive(read_archive(model.weights), model.package, target, _MEND)


def lay_out_archive(archive: Archive, package: ModelPackage, target: Path, mend: str) -> Model:
    """Check a program against its model.yaml and lay it out; `mend` tells how a fixed batch becomes free."""
    checked, package = _checked(archive.program, package)
    program = read_program(checked, archive.weights, archive.constants)
    _check_inputs(program, checked["range_constraints"], package, mend)
    made = lay_out(checked, program, package, target)
    _check_certain(made)
    return made


def _checked(program: dict[str, Any], package: ModelPackage) -> tuple[dict[str, Any], ModelPackage]:
    """Return a program that takes its inputs by position, and a package whose inputs stand in that order."""
    try:
        checked = checked_program(program)
        count, names = names_of_inputs(checked)
        by_position(checked, count + len(names))
    except (KeyError, IndexError, TypeError, AttributeError, ValueError) as error:
        raise InvalidPackage(f"the program is damaged ({error!r}); export it again") from error
    return checked, package.model_copy(update={"inputs": _in_order(package, count, names)})


def _in_order(package: ModelPackage, count: int, names: list[str]) -> tuple[Tensor, ...]:
    named = {tensor.name: tensor for tensor in package.inputs}
    absent = [name for name in names if name not in named]
    if absent or len(named) != count + len(names):
        takes = f"{count} inputs by position" + (f" and {', '.join(names)} by name" if names else "")
        raise InvalidPackage(f"the program takes {takes}, model.yaml names {', '.join(named)}")
    positional = [tensor for tensor in package.inputs if tensor.name not in names]
    return (*positional, *(named[name] for name in names))


def _check_inputs(program: ExportedProgram, ranges: dict[str, Any], package: ModelPackage, mend: str) -> None:
    for tensor, (name, value) in zip(package.inputs, user_inputs(program), strict=True):
        if value.dtype != torch_dtype_of(tensor):
            raise InvalidPackage(f"input {tensor.name} ({name}) is {value.dtype}, model.yaml says {tensor.datatype}")
        lengths = [length if isinstance(length, int) else -1 for length in value.shape]
        if lengths and lengths[0] >= 0:
            raise InvalidPackage(f"input {tensor.name} has the fixed batch size {lengths[0]}; {mend}")
        _check_batch(tensor.name, str(value.shape[0]), ranges, mend)
        check_shape("input", tensor, lengths)


def _check_batch(name: str, symbol: str, ranges: dict[str, Any], mend: str) -> None:
    """Raise InvalidPackage where not every number of rows is taken."""
    found = ranges.get(symbol, {"min_val": None, "max_val": None} if symbol.isidentifier() else None)
    if found is None:
        raise InvalidPackage(f"input {name} takes {symbol} rows, not any number; {mend}")
    low, high = found["min_val"] or 0, math.inf if found["max_val"] is None else found["max_val"]
    if low > _LEAST or high < _UNBOUNDED:
        raise InvalidPackage(f"input {name} takes {low} to {high} rows, not any number; {mend}, without min and max")


def _check_certain(made: Model) -> None:
    """Refuse a program that answers the same rows differently, or remembers what it was asked: one of training."""
    module = load_module(made, allow_pickle=False)
    rows = [torch.from_numpy(value) for value in example_inputs(made.package.inputs, 1, 0).values()]
    held = [*rows, *module.buffers()]
    before = [value.clone() for value in held]
    first, second = _answers(module, made, rows), _answers(module, made, rows)
    if not _equal(before, held):
        raise InvalidPackage(f"the program changes its own buffers or inputs as it computes; {_EVAL}")
    if not _equal(first, second):
        raise InvalidPackage(f"the program answers the same rows differently; {_EVAL}")


def _answers(module: nn.Module, made: Model, rows: list[torch.Tensor]) -> list[torch.Tensor]:
    try:
        with torch.inference_mode():
            return ordered_outputs(module(*rows), made.package)
    except InvalidPackage:
        raise
    except Exception as error:
        said = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        raise InvalidPackage(f"the program cannot compute a single row ({said}); export it for any number") from error


def _equal(ones: list[torch.Tensor], others: list[torch.Tensor]) -> bool:
    return all(torch.equal(one, other) for one, other in zip(ones, others, strict=True))
