"""Write a program as a PyTorch package, which every pass that needs no layers can work on, and read it back.

model.yaml  program_entrypoint.py  program.json  model.safetensors  constants.safetensors
"""

import json
import shutil
from pathlib import Path
from typing import Any, Final

import safetensors.torch
import torch
from pydantic import Field, ValidationError
from torch import fx, nn
from torch.export import ExportedProgram

from trimtab_api.contract import Contract, explain
from trimtab_api.errors import InvalidPackage
from trimtab_api.package import WEIGHTS_FILE, ModelPackage
from trimtab_api.spec import ModelFormat
from trimtab_optimizer.importers.programs import ENTRYPOINT
from trimtab_optimizer.importers.programs.module import Tensors, module_of, read_program
from trimtab_optimizer.package import Model, write_package

_PROGRAM: Final = "program.json"
_CONSTANTS: Final = "constants.safetensors"


class Held(Contract):
    """What is known of a weight beside its values. `same` names the weight that it is another name of."""

    shape: tuple[int, ...]
    dtype: str
    parameter: bool
    trained: bool
    same: str | None = None


class StoredProgram(Contract):
    """The content of program.json: a graph that was checked, and the tensors that it is filled with."""

    graph: dict[str, Any]
    weights: dict[str, Held] = Field(default_factory=dict)


def lay_out(checked: dict[str, Any], program: ExportedProgram, package: ModelPackage, target: Path) -> Model:
    """Write a program into `target`, which is made."""
    target.mkdir(parents=True)
    weights = {name: held.to_dict() for name, held in _held(program.state_dict).items()}
    (target / _PROGRAM).write_text(json.dumps({"graph": checked, "weights": weights}), encoding="utf-8")
    safetensors.torch.save_model(module_of(program), str(target / WEIGHTS_FILE))
    if program.constants:
        constants = {name: value.detach().clone() for name, value in program.constants.items()}
        safetensors.torch.save_file(constants, target / _CONSTANTS)
    code = f"{ENTRYPOINT.partition(':')[0]}.py"
    shutil.copyfile(Path(__file__).with_name(code), target / code)
    changes = {"format": ModelFormat.PYTORCH, "entrypoint": ENTRYPOINT, "weights": WEIGHTS_FILE}
    return write_package(target, package.model_copy(update=changes))


def build_module(folder: Path) -> fx.GraphModule:
    """Return the module of a folder that lay_out wrote, with room for its weights. Raises InvalidPackage."""
    try:
        stored = StoredProgram.model_validate_json((folder / _PROGRAM).read_bytes())
    except (OSError, ValidationError) as error:
        said = explain(error) if isinstance(error, ValidationError) else error
        raise InvalidPackage(f"{_PROGRAM} cannot be read: {said}") from error
    constants = safetensors.torch.load_file(folder / _CONSTANTS) if (folder / _CONSTANTS).is_file() else {}
    return module_of(read_program(stored.graph, _empty(stored.weights), constants))


def _held(weights: Tensors) -> dict[str, Held]:
    first: dict[int, str] = {}
    return {name: _described(value, first.setdefault(id(value), name), name) for name, value in weights.items()}


def _described(value: torch.Tensor, first: str, name: str) -> Held:
    return Held(
        shape=tuple(value.shape),
        dtype=str(value.dtype).removeprefix("torch."),
        parameter=isinstance(value, nn.Parameter),
        trained=value.requires_grad,
        same=first if first != name else None,
    )


def _empty(weights: dict[str, Held]) -> dict[str, torch.Tensor]:
    made: dict[str, torch.Tensor] = {}
    for name, held in weights.items():
        made[name] = made[held.same] if held.same else _room(held)
    return made


def _room(held: Held) -> torch.Tensor:
    value = torch.empty(held.shape, dtype=getattr(torch, held.dtype))
    return nn.Parameter(value, held.trained) if held.parameter else value
