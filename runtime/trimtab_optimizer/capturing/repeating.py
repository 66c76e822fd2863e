"""Capture a deep module in the time of a flat one: with three blocks of its stack, of which the middle one is repeated.

Tracing takes time for each operation, several times over, and blocks of a stack give the same nodes again and again.
That they do was seen beforehand (stacks.py); that the graph has them as expected is checked here, and a graph which has
not is captured as a whole.
"""

import ast
from collections.abc import Mapping
from typing import Final

import onnx_ir as ir
from onnx_ir.tensor_adapters import TorchTensor
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor

from trimtab_optimizer.capturing.exporter import WRAPPED, clean, exported
from trimtab_optimizer.capturing.stacks import LEAST, Stack, find_stack, shortened
from trimtab_optimizer.importers.empty import empty_module
from trimtab_optimizer.package import Model

_SCOPES: Final = "pkg.torch.onnx.name_scopes"  # where the exporter writes the modules that a node comes from


def capture_deep(model: Model, seed: int) -> ir.Model | None:
    """Return the graph of a package with a stack of like blocks, as `capture` does; None where there is no such stack.

    Raises PassFailed.
    """
    stack = find_stack(empty_module(model), model.package)
    if stack is None:
        return None
    module = empty_module(model)  # the other one has run: code may keep what it computed
    with shortened(module, stack.path):
        made = exported(module, model.package, seed, optimize=False)
    try:
        _Repeated(made.graph, stack, module).repeat()
    except _OtherGraphError:
        return None
    return clean(made)


class _OtherGraphError(Exception):
    """A graph does not have its blocks one after the other, each like the one before."""


class _Repeated:
    """The graph of a shortened module, to which the blocks are added that it lacks."""

    def __init__(self, graph: ir.Graph, stack: Stack, module: nn.Module) -> None:
        self._graph, self._count, self._module = graph, stack.count, module
        self._scope = f"{WRAPPED}{stack.path}."
        blocks: list[list[ir.Node]] = [[] for _ in range(LEAST)]
        for node in graph:
            if (number := self._block_of(node)) is not None:
                blocks[number].append(node)
        self._middle, self._last = blocks[-2:]
        self._results = {value: None for node in self._middle for value in node.outputs}

    def repeat(self) -> None:
        """Put copies of the middle block before the last one, in place.

        Raises _OtherGraphError; the graph is then of no use.
        """
        carried = self._carried()
        self._check_that_nothing_leaves()
        self._rename_last()
        current = {value: value for value in self._results}  # of the middle block, in the copy that was made last
        for number in range(LEAST - 1, self._count - 1):
            current = self._copy(number, {before: current[after] for before, after in carried.items()})
        for node in self._last:
            for place, value in enumerate(node.inputs):
                if value is not None and value in current:
                    node.replace_input_with(place, current[value])

    def _block_of(self, node: ir.Node) -> int | None:
        scopes = ast.literal_eval(node.metadata_props.get(_SCOPES, "[]"))
        inner = (scope.removeprefix(self._scope).partition(".")[0] for scope in scopes if scope.startswith(self._scope))
        return next((int(number) for number in inner), None)

    def _carried(self) -> dict[ir.Value, ir.Value]:
        """Return what the middle block reads of the one before, with what the last block reads of the middle one."""
        if not self._middle or len(self._middle) != len(self._last):
            raise _OtherGraphError
        same: dict[ir.Value, ir.Value] = {}
        carried: dict[ir.Value, ir.Value] = {}
        for one, other in zip(self._middle, self._last, strict=True):
            if not _are_alike(one, other):
                raise _OtherGraphError
            for a, b in zip(one.inputs, other.inputs, strict=True):
                if a is not None and b is not None and b in self._results and a not in self._results:
                    if carried.setdefault(a, b) is not b:
                        raise _OtherGraphError
                elif not self._is_same(a, b, same):
                    raise _OtherGraphError
            same.update(zip(one.outputs, other.outputs, strict=True))
        pairs = zip(self._middle, self._last, strict=True)
        if any(a is b and a in carried for x, y in pairs for a, b in zip(x.inputs, y.inputs, strict=True)):
            raise _OtherGraphError  # what a copy reads there would be of the first block, and not of the one before
        return carried

    def _is_same(self, a: ir.Value | None, b: ir.Value | None, same: Mapping[ir.Value, ir.Value]) -> bool:
        """Tell whether a value of the last block is what another one is in the middle block."""
        if a is None or b is None:
            return a is b
        if a in same:
            return same[a] is b
        if a.is_initializer() and b.is_initializer() and a is not b:
            own = self._own_name(a, LEAST - 2)
            return _are_equal(a, b) if own is None else own == self._own_name(b, LEAST - 1)
        return a is b

    def _check_that_nothing_leaves(self) -> None:
        """Raise _OtherGraphError where something reads the middle block, other than itself and the last one."""
        readers = {*self._middle, *self._last}
        outputs = set(self._graph.outputs)
        for value in self._results:
            if value in outputs or any(use.node not in readers for use in value.uses()):
                raise _OtherGraphError

    def _copy(self, number: int, given: Mapping[ir.Value, ir.Value]) -> dict[ir.Value, ir.Value]:
        """Add the block with a number, and return its results by those of the middle block."""
        values = dict(given)
        for value in {v: None for node in self._middle for v in node.inputs if v is not None and v.is_initializer()}:
            own = self._own_name(value, LEAST - 2)
            if own is not None:
                values[value] = self._weight(value, f"{self._scope}{number}.{own}")
        for node in self._middle:
            names = (f"{v.name}.{number}" if v.name else v.name for v in node.outputs)
            made = [ir.Value(name=n, shape=v.shape, type=v.type) for n, v in zip(names, node.outputs, strict=True)]
            values.update(zip(node.outputs, made, strict=True))
            inputs = [None if value is None else values.get(value, value) for value in node.inputs]
            copy = ir.Node(
                node.domain,
                node.op_type,
                inputs,
                node.attributes.values(),
                overload=node.overload,
                outputs=made,
                version=node.version,
                name=f"{node.name}.{number}",
            )
            self._graph.insert_before(self._last[0], copy)
        return {value: values[value] for value in self._results}

    def _own_name(self, value: ir.Value, number: int) -> str | None:
        """Return the name of a weight within the block with a number, or None for others."""
        prefix = f"{self._scope}{number}."
        return value.name.removeprefix(prefix) if value.name and value.name.startswith(prefix) else None

    def _weight(self, like: ir.Value, name: str) -> ir.Value:
        """Return a weight of another block; a buffer that is in no file brings its value."""
        made = ir.Value(name=name, shape=like.shape, type=like.type, const_value=self._constant(like, name))
        self._graph.register_initializer(made)
        return made

    def _constant(self, like: ir.Value, name: str) -> ir.TensorProtocol:
        assert like.const_value is not None
        if isinstance(getattr(like.const_value, "raw", None), FakeTensor):
            return like.const_value
        held = dict(self._module.named_buffers()).get(name.removeprefix(WRAPPED))
        if held is None or isinstance(held, FakeTensor):
            raise _OtherGraphError
        return TorchTensor(held, name=name)

    def _rename_last(self) -> None:
        """Give the weights of the last block its own number."""
        for value in tuple(self._graph.initializers.values()):
            own = self._own_name(value, LEAST - 1)
            if own is not None and value in self._graph.outputs:
                raise _OtherGraphError
            if own is not None:
                del self._graph.initializers[value.name or ""]
                self._replace(value, self._weight(value, f"{self._scope}{self._count - 1}.{own}"))

    @staticmethod
    def _replace(value: ir.Value, other: ir.Value) -> None:
        for node, place in tuple(value.uses()):
            node.replace_input_with(place, other)


def _are_alike(one: ir.Node, other: ir.Node) -> bool:
    """Tell whether two nodes do the same with what they read. Those with branches are not compared."""
    if one.op_identifier() != other.op_identifier() or len(one.inputs) != len(other.inputs):
        return False
    if len(one.outputs) != len(other.outputs) or one.attributes.keys() != other.attributes.keys():
        return False
    pairs = ((attribute, other.attributes[name]) for name, attribute in one.attributes.items())
    return all(a.type == b.type and _told(a) is not None and _told(a) == _told(b) for a, b in pairs)


def _told(attribute: ir.Attr) -> object:
    """Return the value of an attribute in a form that can be compared; None for a branch, or for several."""
    if attribute.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS, ir.AttributeType.TENSORS):
        return None
    if attribute.type == ir.AttributeType.TENSOR:
        tensor = attribute.as_tensor()
        return tensor.dtype, tuple(tensor.shape), tensor.tobytes()
    return (attribute.value,)


def _are_equal(one: ir.Value, other: ir.Value) -> bool:
    """Tell whether two constants hold the same."""
    a, b = one.const_value, other.const_value
    if a is None or b is None or any(isinstance(getattr(item, "raw", None), FakeTensor) for item in (a, b)):
        return False
    return (a.dtype, tuple(a.shape), a.tobytes()) == (b.dtype, tuple(b.shape), b.tobytes())
