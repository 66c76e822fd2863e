"""PyTorch packages: code of the package builds the module, safetensors fill it."""

from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import nn

from trimtab_api.contract import canonical_json
from trimtab_api.errors import InvalidPackage, UnsafeFormat
from trimtab_api.package import STRUCTURE_FILE, WEIGHTS_FILE, ModelPackage, Tensor
from trimtab_optimizer.importers.code import find_callable, flat, importable
from trimtab_optimizer.importers.structure import Structure, read_structure, shrink, sizes_changed
from trimtab_optimizer.package import Model, confined, copy_beside_weights, write_package
from trimtab_optimizer.tensors import dtype_of, example_inputs, fits

_PICKLED = frozenset({".pth", ".pt", ".pkl", ".bin", ".ckpt"})
_SEED = 0
_LISTED = 8


def check_pytorch(model: Model, allow_pickle: bool) -> None:
    """Build the module, fill it and run it on two and three made-up rows. Raises InvalidPackage or UnsafeFormat."""
    check_answers(load_module(model, allow_pickle), model.package)


def check_answers(module: nn.Module, package: ModelPackage) -> None:
    """Run a module on two and three made-up rows. Raises InvalidPackage where it gives other outputs than told."""
    for rows in (2, 3):
        _check_outputs(_run(module, package, rows), package, rows)


def load_module(model: Model, allow_pickle: bool) -> nn.Module:
    """Return the module with its weights, ready for inference."""
    module = build_module(model)
    if model.package.structure:
        shrink(module, structure_of(model), model.weights)
    try:
        with importable(model.folder):  # a whole module that was pickled names the classes of the package
            missing, unexpected = _fill(module, model.weights, allow_pickle)
    except RuntimeError as error:
        raise InvalidPackage(f"{model.package.weights} does not fit the module: {flat(error)}") from error
    if missing or unexpected:
        complaint = f"missing: {_listed(missing)}; unexpected: {_listed(unexpected)}"
        raise InvalidPackage(f"{model.package.weights} does not fit the module ({complaint}); save its own state_dict")
    return module.eval()


def structure_of(model: Model) -> Structure:
    """Return what passes changed of the module that the code of a package builds."""
    return read_structure(confined(model.folder, model.package.structure)) if model.package.structure else Structure()


def save_module(base: Model, module: nn.Module, sparse: tuple[str, ...], target: Path) -> Model:
    """Write a module that was changed as a package of its own, with the code of the package that it comes from."""
    made = save_structure(base, Structure(sizes=sizes_changed(build_module(base), module), sparse=sparse), target)
    safetensors.torch.save_model(module, str(target / WEIGHTS_FILE))
    return made


def mark_pruned(model: Model, weights: tuple[str, ...]) -> Model:
    """Note in a package which of its weights were pruned, so that training leaves their zeros at zero."""
    structure = structure_of(model)
    marked = structure.model_copy(update={"sparse": tuple(sorted({*structure.sparse, *weights}))})
    (model.folder / STRUCTURE_FILE).write_text(canonical_json(marked.to_dict()), encoding="utf-8")
    return write_package(model.folder, model.package.model_copy(update={"structure": STRUCTURE_FILE}))


def save_structure(base: Model, structure: Structure, target: Path) -> Model:
    """Write a package with another structure, which lacks its weights: they are to go into WEIGHTS_FILE."""
    copy_beside_weights(base, target)
    (target / STRUCTURE_FILE).write_text(canonical_json(structure.to_dict()), encoding="utf-8")
    return write_package(target, base.package.model_copy(update={"weights": WEIGHTS_FILE, "structure": STRUCTURE_FILE}))


def ordered_outputs(found: object, package: ModelPackage) -> list[torch.Tensor]:
    """Return what a module gave, in the order of model.yaml. Raises InvalidPackage where tensors are missing."""
    values: list[object]
    if isinstance(found, dict):
        absent = [tensor.name for tensor in package.outputs if tensor.name not in found]
        if absent:
            raise InvalidPackage(f"the module gives no output {_listed(absent)} (found: {_listed(sorted(found))})")
        values = [found[tensor.name] for tensor in package.outputs]
    else:
        values = list(found) if isinstance(found, tuple | list) else [found]
    if len(values) != len(package.outputs) or not all(isinstance(value, torch.Tensor) for value in values):
        kinds = ", ".join(type(value).__name__ for value in values)
        raise InvalidPackage(f"the module gives ({kinds}), but model.yaml names {len(package.outputs)} output tensors")
    return [value for value in values if isinstance(value, torch.Tensor)]


def torch_dtype_of(tensor: Tensor) -> torch.dtype:
    """Return the torch dtype of a tensor of model.yaml. Raises InvalidPackage for BYTES."""
    return torch.from_numpy(np.empty(0, dtype_of(tensor))).dtype


def build_module(model: Model) -> nn.Module:
    """Return the module as the code of the package builds it, without its weights."""
    name = model.package.entrypoint or ""
    with importable(model.folder):
        build = find_callable(model.folder, name, "entrypoint")
        try:
            module = build()
        except (Exception, SystemExit) as error:
            raise InvalidPackage(f"entrypoint {name} raised {type(error).__name__}: {flat(error)}") from error
    if not isinstance(module, nn.Module):
        raise InvalidPackage(f"entrypoint {name} gave {type(module).__name__}, expected a torch.nn.Module")
    return module


def _fill(module: nn.Module, weights: Path, allow_pickle: bool) -> tuple[list[str], list[str]]:
    """Load the weights and return the names that are missing and those that are too many."""
    if weights.suffix in _PICKLED:
        found = module.load_state_dict(_unpickle(weights, allow_pickle), strict=False)
        return list(found.missing_keys), list(found.unexpected_keys)
    try:
        missing, unexpected = safetensors.torch.load_model(module, weights, strict=False)
    except SafetensorError as error:
        raise InvalidPackage(f"{weights.name} is not a safetensors file ({error}); save it again") from error
    return sorted(missing), sorted(unexpected)


def _unpickle(weights: Path, allow_pickle: bool) -> dict[str, Any]:
    if not allow_pickle:
        mend = "save with safetensors.torch.save_file, or set spec.model.allowPickle: true if you trust its origin"
        raise UnsafeFormat(f"{weights.name} is pickled: reading it can run any code; {mend}")
    try:
        found = torch.load(weights, map_location="cpu", weights_only=False)
    except Exception as error:
        said = f"{weights.name} cannot be read: {type(error).__name__}: {flat(error)}"
        raise InvalidPackage(f"{said}; save module.state_dict() rather than the module") from error
    found = found.state_dict() if isinstance(found, nn.Module) else found
    if not isinstance(found, dict):
        raise InvalidPackage(f"{weights.name} holds {type(found).__name__}, expected a state_dict")
    return found


def _run(module: nn.Module, package: ModelPackage, rows: int) -> list[torch.Tensor]:
    inputs = [torch.from_numpy(value) for value in example_inputs(package.inputs, rows, _SEED).values()]
    try:
        with torch.inference_mode():
            found = module(*inputs)
    except Exception as error:
        shapes = ", ".join(f"{tensor.name} {list(tensor.shape)}" for tensor in package.inputs)
        raise InvalidPackage(
            f"the module cannot take the inputs of model.yaml ({shapes}): {type(error).__name__}: {flat(error)}"
        ) from error
    return ordered_outputs(found, package)


def _check_outputs(found: list[torch.Tensor], package: ModelPackage, rows: int) -> None:
    for value, tensor in zip(found, package.outputs, strict=True):
        wanted = (rows, *tensor.shape[1:])
        if not fits(tuple(value.shape), wanted):
            shape = ["rows", *value.shape[1:]] if value.ndim and value.shape[0] == rows else list(value.shape)
            raise InvalidPackage(f"output {tensor.name} has the shape {shape}, model.yaml says {list(tensor.shape)}")
        if value.dtype != torch_dtype_of(tensor):
            raise InvalidPackage(f"output {tensor.name} is {value.dtype}, model.yaml says {tensor.datatype}")


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return (", ".join(names[:_LISTED]) or "none") + more
