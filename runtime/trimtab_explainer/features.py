"""Features of a row: what is shown to the model or hidden from it together, and what stands in for what is hidden.

Of a table they are columns, of an image squares, of text words, of tokens each one, of a series its steps. What is
hidden takes its values from rows of a background, as far as there is one; an image its mean, a table zeros.

Source: the interpretable representations of Ribeiro et al., "Why Should I Trust You?" (2016), section 3.1.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from trimtab_api.package import ModelPackage, Tensor
from trimtab_runtime.protocol.errors import BadRequest
from trimtab_runtime.protocol.tensors import Array, datatype_of

Masks = NDArray[np.bool_]  # [sets, features]: what is shown
Hide = Callable[[Masks], Array]  # returns [sets, stand-ins, ...]

_CHANNELS: Final = (1, 3, 4)
_NO_FEATURES: Final = re.compile("mask|type_ids|position", re.I)  # inputs that tell how to read another one
_MOST: Final = 4096
_MOST_STAND_INS: Final = 16 << 20  # bytes of rows that stand in for one


@dataclass(frozen=True, slots=True)
class Choice:
    """What a caller may choose of it: inputs, squares along each side of an image, and the number of no token."""

    inputs: tuple[str, ...] = ()
    squares: int = 8
    no_token: int = 0


@dataclass(frozen=True, slots=True)
class Part:
    """The features of one input, by name, in the shape in which they are told of."""

    input: str
    names: tuple[str, ...]
    shape: tuple[int, ...]
    hide: Hide


@dataclass(frozen=True, slots=True)
class Features:
    """All features of a row."""

    row: Mapping[str, Array]
    parts: tuple[Part, ...]
    stand_ins: int

    @property
    def count(self) -> int:
        """Return how many there are."""
        return sum(len(part.names) for part in self.parts)

    def shown(self, masks: Masks) -> dict[str, Array]:
        """Return the rows that show these sets of features: for each of them as many as there are stand-ins."""
        rows = len(masks) * self.stand_ins
        hidden_inputs = {part.input for part in self.parts}
        feeds = {name: np.repeat(array, rows, axis=0) for name, array in self.row.items() if name not in hidden_inputs}
        for part, own in zip(self.parts, self.split(masks), strict=True):
            hidden = part.hide(own)
            wide = np.broadcast_to(hidden, (len(masks), self.stand_ins, *hidden.shape[2:]))
            feeds[part.input] = np.ascontiguousarray(wide.reshape(rows, *hidden.shape[2:]))
        return feeds

    def split(self, values: NDArray[Any]) -> list[NDArray[Any]]:
        """Return values [..., features] apart by input."""
        ends = list(accumulate(len(part.names) for part in self.parts))
        return np.split(values, ends[:-1], axis=-1)


def features_of(
    package: ModelPackage, row: Mapping[str, Array], background: Mapping[str, Array], choice: Choice
) -> Features:
    """Return the features of one row, {name: [1, ...]}. Raises BadRequest."""
    known = [tensor.name for tensor in package.inputs]
    if unknown := set(choice.inputs) - set(known):
        raise BadRequest(f"there is no input {sorted(unknown)} to explain; the model has {known}")
    chosen = [tensor for tensor in package.inputs if tensor.name in choice.inputs]
    chosen = chosen or [tensor for tensor in package.inputs if not _NO_FEATURES.search(tensor.name)]
    parts = tuple(
        _part(tensor, row[tensor.name], _fitting(background.get(tensor.name), row[tensor.name]), choice)
        for tensor in chosen or package.inputs
    )
    count = sum(len(part.names) for part in parts)
    if not 1 <= count <= _MOST:
        raise BadRequest(f"the row has {count} features; from 1 to {_MOST} can be explained")
    nothing = np.zeros((1, count), np.bool_)
    stand_ins = max(part.hide(nothing[:, : len(part.names)]).shape[1] for part in parts)
    return Features(row, parts, stand_ins)


def _fitting(background: Array | None, array: Array) -> Array | None:
    """Return the background where its rows have the shape of this one; fewer rows where these are large."""
    if background is None or background.shape[1:] != array.shape[1:]:
        return None
    return background[: max(1, _MOST_STAND_INS // max(1, array.nbytes))]


def _part(tensor: Tensor, array: Array, background: Array | None, choice: Choice) -> Part:
    tail = array.shape[1:]
    if array.dtype.kind == "O":
        return _words(tensor.name, array)
    if array.dtype.kind in "iu" and len(tail) == 1 and tensor.shape[1] == -1:
        return _tokens(tensor.name, array, choice.no_token)
    if len(tail) == 3 and (tail[0] in _CHANNELS or tail[2] in _CHANNELS):
        return _squares(tensor.name, array, background, choice.squares)
    stand_ins = np.zeros_like(array) if background is None else background
    if not tail:
        return Part(tensor.name, (tensor.name,), (), lambda masks: np.where(masks, array, stand_ins))
    # Columns of a table, or steps of a series: the first axis of a row.
    names = tuple(f"{tensor.name}[{at}]" for at in range(tail[0]))

    def hide(masks: Masks) -> Array:
        shown = masks.reshape(len(masks), 1, tail[0], *[1] * (len(tail) - 1))
        return np.where(shown, array, stand_ins)

    return Part(tensor.name, names, (tail[0],), hide)


def _tokens(name: str, array: Array, no_token: int) -> Part:
    names = tuple(f"{name}[{at}]={token}" for at, token in enumerate(array[0].tolist()))
    if no_token > np.iinfo(array.dtype).max:
        raise BadRequest(f"the parameter no_token is {no_token}, which is no {datatype_of(array)} of input {name}")
    stand_in = array.dtype.type(no_token)
    return Part(name, names, (len(names),), lambda masks: np.where(masks, array, stand_in)[:, np.newaxis])


def _words(name: str, array: Array) -> Part:
    """Return the words of all texts of the row; a word that is hidden is not there."""
    texts = [_text(item).split() for item in array.ravel()]
    words = tuple(word for text in texts for word in text)
    ends = list(accumulate(len(text) for text in texts))[:-1]

    def hide(masks: Masks) -> Array:
        shown = np.empty((len(masks), 1, *array.shape[1:]), object)
        for at, mask in enumerate(masks):
            kept = zip(texts, np.split(mask, ends), strict=True)
            said = [" ".join(word for word, shows in zip(*both, strict=True) if shows) for both in kept]
            shown[at, 0] = np.array(said, object).reshape(array.shape[1:])
        return shown

    return Part(name, words, (len(words),), hide)


def _text(item: Any) -> str:
    return item.decode() if isinstance(item, bytes) else str(item)


def _squares(name: str, array: Array, background: Array | None, count: int) -> Part:
    """Return the squares of an image, which are hidden behind its mean, or that of the background."""
    first = array.shape[1] <= array.shape[3]  # channels are the shorter axis of the two
    height, width = array.shape[2:] if first else array.shape[1:3]
    down, across = min(count, height), min(count, width)
    square = (np.arange(height) * down // height)[:, np.newaxis] * across + np.arange(width) * across // width
    sides: tuple[int, ...] = (2, 3) if first else (1, 2)
    mean = array.mean(axis=sides, keepdims=True) if background is None else background.mean(axis=0, keepdims=True)
    stand_in = np.broadcast_to(mean, array.shape).astype(array.dtype)

    def hide(masks: Masks) -> Array:
        shown = masks[:, square]  # [sets, height, width]
        return np.where(shown[:, np.newaxis] if first else shown[..., np.newaxis], array, stand_in)[:, np.newaxis]

    names: Sequence[str] = [f"{name}[{y},{x}]" for y in range(down) for x in range(across)]
    return Part(name, tuple(names), (down, across), hide)
