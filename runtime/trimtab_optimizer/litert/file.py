"""A LiteRT file: run it, and see what is in it."""

from collections import Counter
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from trimtab_api.errors import InvalidPackage, MissingTool
from trimtab_api.package import ModelPackage, signature_name
from trimtab_optimizer.tensors import Arrays

LARGEST: Final = (1 << 31) - 1  # bytes: offsets in a FlatBuffer have 31 bits


class LitertFile:
    """Runs a LiteRT file on the CPU. Its one interpreter is fitted to another number of rows in some microseconds."""

    def __init__(self, path: Path, package: ModelPackage, threads: int = 1) -> None:
        self._interpreter = open_interpreter(path, threads)
        signature = signature_of(self._interpreter, path)
        self._inputs = {t.name: _index(signature[0], t.name, path) for t in package.inputs}
        self._outputs = [_index(signature[1], t.name, path) for t in package.outputs]
        self._shapes: dict[str, tuple[int, ...]] = {}

    def run(self, inputs: Arrays) -> list[NDArray[Any]]:
        """Return one array per output."""
        given = {name: np.ascontiguousarray(inputs[name]) for name in self._inputs}
        self._fit({name: values.shape for name, values in given.items()})
        for name, values in given.items():
            self._interpreter.set_tensor(self._inputs[name], values)
        self._interpreter.invoke()
        return [self._interpreter.get_tensor(index) for index in self._outputs]

    def _fit(self, shapes: dict[str, tuple[int, ...]]) -> None:
        if shapes == self._shapes:
            return
        self._shapes = {}  # of a shape that does not fit nothing may be kept
        for name, shape in shapes.items():
            self._interpreter.resize_tensor_input(self._inputs[name], shape, strict=False)
        self._interpreter.allocate_tensors()
        self._shapes = shapes


def open_interpreter(path: Path, threads: int = 1) -> Any:
    """Load a LiteRT file. Raises InvalidPackage, and MissingTool where LiteRT is not installed."""
    try:
        from ai_edge_litert.interpreter import Interpreter  # late: most plans can do without it
    except ImportError as error:
        raise MissingTool(
            f"LiteRT is not installed here ({error}); install it with `pip install ai-edge-litert`"
        ) from error
    try:
        return Interpreter(model_path=str(path), num_threads=threads)
    except (ValueError, RuntimeError) as error:
        raise InvalidPackage(f"LiteRT cannot load {path.name}: {' '.join(str(error).split())[:400]}") from error


def signature_of(interpreter: Any, path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the details of inputs and outputs by name. Raises InvalidPackage without exactly one signature."""
    names = list(interpreter.get_signature_list())
    if len(names) != 1:
        found = ", ".join(names) or "none"
        raise InvalidPackage(f"{path.name} has to have one signature, found: {found}; export it again with one")
    runner = interpreter.get_signature_runner(names[0])
    return runner.get_input_details(), runner.get_output_details()


def count_litert_operators(path: Path) -> dict[str, int]:
    """Return the operators of a LiteRT file by name, all subgraphs together."""
    from ai_edge_litert import schema_py_generated as schema

    names = {code: name for name, code in vars(schema.BuiltinOperator).items() if isinstance(code, int)}
    model = schema.Model.GetRootAs(path.read_bytes(), 0)
    found: Counter[str] = Counter()
    for graph in (model.Subgraphs(number) for number in range(model.SubgraphsLength())):
        for operator in (graph.Operators(number) for number in range(graph.OperatorsLength())):
            code = model.OperatorCodes(operator.OpcodeIndex())
            builtin = max(code.BuiltinCode(), code.DeprecatedBuiltinCode())
            found[names.get(builtin, f"operator {builtin}")] += 1
    return dict(found)


def _index(details: dict[str, Any], name: str, path: Path) -> int:
    wanted = signature_name(name)
    if wanted not in details:
        raise InvalidPackage(f"{path.name} has no tensor `{wanted}` in its signature (found: {', '.join(details)})")
    return int(details[wanted]["index"])
