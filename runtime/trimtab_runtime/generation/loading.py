"""Load a folder, and choose what runs it: together, where a trial shows that this answers as running alone does."""

from dataclasses import dataclass
from typing import Final

import numpy as np

from trimtab_api.errors import InvalidPackage
from trimtab_runtime.generation.batched import BatchedDecoder
from trimtab_runtime.generation.decoder import Decoder
from trimtab_runtime.generation.folder import Folder
from trimtab_runtime.generation.single import SingleDecoder
from trimtab_runtime.logs import say

_TOLERANCE: Final = 0.02  # of the largest logit: kernels of int4 round by the number of rows
_LONG, _SHORT, _STEPS = 11, 5, 3


@dataclass(frozen=True, slots=True)
class Loaded:
    """What runs the model. `difference` is that of logits in company, as a part of the largest; None: not batched."""

    decoder: Decoder
    difference: float | None


def load_decoder(folder: Folder, threads: int, most_rows: int, budget: int) -> Loaded:
    """Load the decoder of a folder. Raises InvalidPackage where no way to run it is known."""
    try:
        batched = BatchedDecoder(folder, threads, most_rows, budget)
        difference = _difference(batched, folder)
        if difference <= _TOLERANCE:
            return Loaded(_roomy(batched), difference)
        cause = f"answers differ by {difference:.2g} of the largest logit"
        del batched
    except Exception as error:  # a graph that is made otherwise fails wherever it likes
        cause = str(error)
    say("sequences do not run together; onnxruntime-genai runs them one by one", cause=cause[:500])
    return load_single(folder, threads, most_rows, budget)


def load_single(folder: Folder, threads: int, most_rows: int, budget: int) -> Loaded:
    """Load the decoder to run sequences one by one. Raises InvalidPackage where it cannot be loaded."""
    single = SingleDecoder(folder, threads, most_rows, budget)
    _tried(single, folder)
    return Loaded(_roomy(single), None)


def _roomy(decoder: Decoder) -> Decoder:
    if decoder.most_tokens < 1:
        raise InvalidPackage("no token of this model has room in the cache; raise TRIMTAB_CACHE_MIB")
    return decoder


def _difference(decoder: Decoder, folder: Folder) -> float:
    """Return by how much logits differ of a prompt read at once, and read in steps in the company of another."""
    long, short = _made_up(folder, _LONG), _made_up(folder, _SHORT)
    decoder.reserve(2, _LONG + _SHORT)
    alone = [decoder.extend(1, long), decoder.extend(1, long[:1])]
    decoder.extend(0, short)
    decoder.cut(1, 0)
    decoder.extend(1, long[:-_STEPS])
    decoder.swap(0, 1)
    for token in long[-_STEPS:]:
        together = [decoder.step([token, short[0]])[0]]
    together.append(decoder.step([long[0], short[0]])[0])
    for row in (0, 1):
        decoder.cut(row, 0)
    apart = max(float(np.abs(one - other).max()) for one, other in zip(alone, together, strict=True))
    largest = max(float(np.abs(one).max()) for one in alone)
    return apart / largest if np.isfinite(apart) and largest else float("inf")


def _tried(decoder: Decoder, folder: Folder) -> None:
    try:
        decoder.reserve(1, _LONG + 1)
        decoder.extend(0, _made_up(folder, _LONG))
        decoder.cut(0, 0)
    except Exception as error:  # the library has no base for what it raises
        raise InvalidPackage(f"the model loads but cannot read {_LONG} tokens: {error}") from error


def _made_up(folder: Folder, count: int) -> list[int]:
    return [int(token) for token in np.random.default_rng(count).integers(0, folder.vocabulary, count)]
