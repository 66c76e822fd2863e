"""A module from a program that was checked: it computes, and learns, as any module does, but has no layers."""

import types
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import fx
from torch._export.serde import schema, serialize  # the reader behind torch.export.load; torch is pinned to a version
from torch.export import ExportedProgram
from torch.export.graph_signature import ConstantArgument, InputKind

from trimtab_api.errors import InvalidPackage

Tensors = Mapping[str, torch.Tensor]


def read_program(checked: dict[str, Any], weights: Tensors, constants: Tensors) -> ExportedProgram:
    """Return the program of a graph that checked_program let through. Raises InvalidPackage where they do not fit."""
    try:
        stored = serialize._dict_to_dataclass(schema.ExportedProgram, checked)  # type: ignore[no-untyped-call]
        return serialize.ExportedProgramDeserializer().deserialize(stored, dict(weights), dict(constants), None)
    except Exception as error:  # whatever a damaged graph makes torch raise
        said = f"{type(error).__name__}: {' '.join(str(error).split())[-300:]}"
        raise InvalidPackage(f"torch {torch.__version__} cannot read the program ({said}); export it again") from error


def module_of(program: ExportedProgram) -> fx.GraphModule:
    """Return what computes a program. Raises InvalidPackage where its graph is damaged."""
    try:
        module = program.module(
            check_guards=False
        )  # guards would be compiled from text; rows are checked by model.yaml
    except Exception as error:
        said = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        raise InvalidPackage(f"the program cannot be run ({said}); export it again") from error
    module.validate_inputs = False  # type: ignore[assignment]
    # A program is what was exported, in training too: torch raises where it is to be told which of both it is.
    module.train = types.MethodType(_as_it_is, module)  # type: ignore[method-assign]
    module.eval = types.MethodType(_as_it_is, module)  # type: ignore[method-assign]
    return module


def user_inputs(program: ExportedProgram) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield name and example (its shape may be symbolic) of each input. Raises InvalidPackage for what is no tensor."""
    placeholders = {node.name: node.meta.get("val") for node in program.graph.nodes if node.op == "placeholder"}
    for spec in program.graph_signature.input_specs:
        if spec.kind is not InputKind.USER_INPUT:
            continue
        value = None if isinstance(spec.arg, ConstantArgument) else placeholders.get(spec.arg.name)
        if not isinstance(value, torch.Tensor):
            raise InvalidPackage(
                f"the program takes {spec.arg.name or 'an input'}, which is no tensor; export without it"
            )
        yield spec.arg.name, value


def _as_it_is(module: fx.GraphModule, mode: bool = True) -> fx.GraphModule:
    return module
