"""Find the stack of a deep module: a list of blocks that do the same one after the other, each with its own weights.

That they do is not told by their class, but seen: a module without values is run, and what each block computes of what
is written down, operation by operation. Blocks are alike where these notes are, with weights by their name within the
block, and values by where they come from: this block, the one before, or what stands before all blocks.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

from trimtab_api.package import ModelPackage, Tensor
from trimtab_optimizer.capturing.exporter import as_if_exporting
from trimtab_optimizer.importers.pytorch import torch_dtype_of

LEAST: Final = 3  # blocks of a shortened module: the first, one in the middle, the last

_BEFORE: Final = -1  # the place of what runs before the first block
_PLAIN: Final = (bool, int, float, str, type(None))
_USUAL: Final = (2, 8)  # rows, and the length of each axis that may have any
_MANY: Final = 61
_LONG: Final = (1_048_583, 131_101, 16_411, 4099, 1031, 521, 257, 127, 61, 31)
_HALVINGS: Final = 6
_MOST: Final = 10_000  # operations of a block


@dataclass(frozen=True, slots=True)
class Stack:
    """Where the list of blocks is in a module, and how many there are."""

    path: str
    count: int


def find_stack(module: nn.Module, package: ModelPackage) -> Stack | None:
    """Return the deepest stack of an empty module, if nothing else changes where it is shortened to LEAST blocks.

    The module is run twice, as if it was exported: with the axes of an example, and with very long ones. What is told
    apart by a length, such as a window, is seen then, and a number that is no length is not taken for one.
    """
    candidates = [(len(part), path) for path, part in module.named_modules() if path and _is_candidate(part)]
    if not candidates:
        return None
    count, path = max(candidates)
    alike = partial(_is_alike, module, path, package)
    try:
        found = alike(*_USUAL) and _is_alike_when_long(alike)
    except Exception:  # what the module's code raises when it is run so: it is then captured as it stands
        return None
    return Stack(path, count) if found else None


def _is_alike_when_long(alike: Callable[[int, int], bool]) -> bool:
    """Tell whether blocks are alike with axes as long as the module takes them, which need not be known exactly."""
    too_long = 0
    for longest in _LONG:
        try:
            found = alike(_MANY, longest)
        except Exception:
            too_long = longest
            continue
        return found and _is_alike_up_to(alike, longest, too_long)
    raise ValueError("no length but the usual one can be run")


def _is_alike_up_to(alike: Callable[[int, int], bool], longest: int, too_long: int) -> bool:
    for _ in range(_HALVINGS if too_long else 0):
        middle = (longest + too_long) // 2
        try:
            if not alike(_MANY, middle):
                return False
            longest = middle
        except Exception:
            too_long = middle
    return True


def _is_alike(module: nn.Module, path: str, package: ModelPackage, rows: int, length: int) -> bool:
    """Tell whether a shortened module does the same on made-up rows. Raises what the module's code does."""
    whole = _notes(module, path, package, rows, length)
    with shortened(module, path):
        short = _notes(module, path, package, rows, length)
    return whole.are_alike and whole.is_like(short)


@contextmanager
def shortened(module: nn.Module, path: str) -> Iterator[None]:
    """Leave a module only the first blocks of a list for a while."""
    above, _, name = path.rpartition(".")
    parent, blocks = module.get_submodule(above), module.get_submodule(path)
    parts = list(blocks.children())[:LEAST]
    parent._modules[name] = nn.Sequential(*parts) if isinstance(blocks, nn.Sequential) else nn.ModuleList(parts)
    try:
        yield
    finally:
        parent._modules[name] = blocks


def _is_candidate(part: nn.Module) -> bool:
    """Tell whether a module is a list of different blocks of one class, with weights of the same shapes."""
    blocks = list(part.children()) if type(part) in (nn.ModuleList, nn.Sequential) else []
    kinds = {(type(block), *((name, w.shape, w.dtype) for name, w in block.named_parameters())) for block in blocks}
    return len(blocks) > LEAST and len(kinds) == 1 and len({id(block) for block in blocks}) == len(blocks)


@dataclass
class _Notes:
    """What was computed before all blocks, by each block, and after them."""

    before: list[object] = field(default_factory=list)
    blocks: list[list[object]] = field(default_factory=list)
    after: list[object] = field(default_factory=list)

    @property
    def are_alike(self) -> bool:
        """Tell whether all blocks do the same; the first may read other values."""
        return all(block == self.blocks[1] for block in self.blocks[2:])

    def is_like(self, short: "_Notes") -> bool:
        """Tell whether a shortened module does the same."""
        return short.are_alike and (self.before, self.blocks[:2], self.after) == (
            short.before,
            short.blocks[:2],
            short.after,
        )


def _notes(module: nn.Module, path: str, package: ModelPackage, rows: int, length: int) -> _Notes:
    mode = next(weight.fake_mode for weight in module.parameters() if isinstance(weight, FakeTensor))
    with mode:
        inputs = [_made_up(tensor, rows, length) for tensor in package.inputs]
    blocks = list(module.get_submodule(path).children())
    recorder = _Recorder(module, path, len(blocks), inputs)
    hooks = [hook for n, block in enumerate(blocks) for hook in recorder.watch(block, n)]
    try:
        with torch.no_grad(), as_if_exporting(), mode, recorder:
            found = module(*inputs)
        return recorder.finish(found)
    finally:
        for hook in hooks:
            hook.remove()


def _made_up(tensor: Tensor, rows: int, length: int) -> torch.Tensor:
    lengths = (length if axis < 0 else axis for axis in tensor.shape[1:])
    return torch.empty((rows, *lengths), dtype=torch_dtype_of(tensor))


class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Writes down what is computed, block by block."""

    def __init__(self, module: nn.Module, path: str, count: int, inputs: list[torch.Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._places: dict[int, list[object]] = {n: [] for n in range(_BEFORE, count + 1)}
        self._count, self._place, self._is_inside = count, _BEFORE, False
        self._origins: dict[int, tuple[int, object]] = {}  # of tensors: the place, and what it is there
        self._alive: list[torch.Tensor] = []  # an id is only of what is alive
        for number, tensor in enumerate(inputs):
            self._remember(tensor, _BEFORE, ("input", number))
        for name, tensor in {**dict(module.named_buffers()), **module.state_dict(keep_vars=True)}.items():
            inner = name.removeprefix(f"{path}.")
            place, _, own = inner.partition(".")
            is_own = inner != name
            what = ("weight", own if is_own else name, tensor.dtype, tuple(tensor.shape))
            self._remember(tensor, int(place) if is_own else _BEFORE, what)

    def watch(self, block: nn.Module, number: int) -> Iterator[Any]:
        """Yield the hooks that tell when a block begins and ends."""

        def begin(part: nn.Module, given: object) -> None:
            if self._is_inside or number != self._place + 1:
                raise ValueError("blocks do not run one after the other")
            self._place, self._is_inside = number, True

        def end(part: nn.Module, given: object, found: object) -> None:
            self._is_inside = False

        yield block.register_forward_pre_hook(begin)
        yield block.register_forward_hook(end)

    def finish(self, found: object) -> _Notes:
        """Return the notes, with what the module gave at their end."""
        if self._place < self._count - 1:
            raise ValueError("not every block has run")
        self._note("gives", found)
        places = [self._places[n] for n in range(_BEFORE, self._count + 1)]
        return _Notes(places[0], places[1:-1], places[-1])

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Compute what was asked for, and write it down."""
        number = self._note(str(func), (args, kwargs or {}))
        found = func(*args, **(kwargs or {}))
        for place, tensor in enumerate(pytree.tree_leaves(found)):
            if isinstance(tensor, torch.Tensor) and id(tensor) not in self._origins:
                self._remember(tensor, self._now, ("made", number, place))
        return found

    @property
    def _now(self) -> int:
        """Return the place of what is computed now. Between two blocks is none: nothing may be."""
        if self._is_inside or self._place == _BEFORE:
            return self._place
        if self._place == self._count - 1:
            return self._count
        raise ValueError("something is computed between two blocks")

    def _note(self, what: str, values: object) -> int:
        notes = self._places[self._now]
        if len(notes) > _MOST:
            raise ValueError("the module computes place by place, or very much")
        leaves, form = pytree.tree_flatten(values)
        notes.append((what, str(form), tuple(self._told(leaf) for leaf in leaves)))
        return len(notes)

    def _told(self, leaf: object) -> object:
        """Return a value as it looks from the place of now."""
        if not isinstance(leaf, torch.Tensor):
            return type(leaf), leaf if isinstance(leaf, _PLAIN) else str(leaf)
        if id(leaf) not in self._origins:
            return "constant", leaf.dtype, tuple(leaf.shape), _values(leaf)
        place, what = self._origins[id(leaf)]
        return {self._now: "here", self._now - 1: "one before", _BEFORE: "before all"}.get(place, place), what

    def _remember(self, tensor: torch.Tensor, place: int, what: object) -> None:
        self._origins[id(tensor)] = (place, what)
        self._alive.append(tensor)


def _values(tensor: torch.Tensor) -> tuple[Any, ...]:
    """Return the values of a small constant. Raises where there are none, or too many."""
    held = tensor.constant if isinstance(tensor, FakeTensor) else tensor
    if held is None or held.numel() > _MOST:
        raise ValueError("a value comes from nowhere")
    with _disable_current_modes():
        return tuple(held.flatten().tolist())
