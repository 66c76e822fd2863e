"""What a folder of ONNX Runtime GenAI says of its model: `genai_config.json`, as its model builder writes it."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from trimtab_api.errors import InvalidPackage
from trimtab_api.package import CUSTOM_OPERATORS, GENAI_FILE


@dataclass(frozen=True, slots=True)
class Defaults:
    """How the model's maker wants tokens to be chosen, where a caller does not say; a temperature of 0 is greedy."""

    temperature: float
    top_p: float
    top_k: int
    repetition_penalty: float


@dataclass(frozen=True, slots=True)
class Folder:
    """A folder with a decoder: its graph, the names of inputs and outputs (`%d` is a layer), and its sizes."""

    path: Path
    graph: Path
    inputs: Mapping[str, str]
    outputs: Mapping[str, str]
    layers: int
    heads: int
    head_size: int
    context: int
    vocabulary: int
    ends: frozenset[int]
    defaults: Defaults

    def token_bytes(self, value_bytes: int) -> int:
        """Return the bytes of the keys and values of a token."""
        return 2 * self.layers * self.heads * self.head_size * value_bytes


def read_folder(path: Path) -> Folder:
    """Read the configuration of a folder. Raises InvalidPackage naming what is missing or odd."""
    try:
        content = orjson.loads((path / GENAI_FILE).read_bytes())
        if CUSTOM_OPERATORS in str(content):
            raise ValueError(f"{CUSTOM_OPERATORS} names a library, and code of a folder never runs")
        model = content["model"]
        decoder = model["decoder"]
        ends = model["eos_token_id"]
        graph = path / str(decoder["filename"])
        found = Folder(
            path=path,
            graph=graph,
            inputs=dict(decoder["inputs"]),
            outputs=dict(decoder["outputs"]),
            layers=int(decoder["num_hidden_layers"]),
            heads=int(decoder["num_key_value_heads"]),
            head_size=int(decoder["head_size"]),
            context=_context(model),
            vocabulary=int(model["vocab_size"]),
            ends=frozenset(int(end) for end in (ends if isinstance(ends, list) else [ends])),
            defaults=_defaults(content.get("search", {})),
        )
    except (OSError, orjson.JSONDecodeError, KeyError, TypeError, ValueError) as error:
        raise InvalidPackage(
            f"{GENAI_FILE} cannot be read ({error!r}); give a folder that ONNX Runtime GenAI's model builder made"
        ) from error
    if graph.resolve().parent != path.resolve() or not graph.is_file():
        raise InvalidPackage(f"{GENAI_FILE} names the graph {decoder['filename']}, and the folder has no such file")
    return found


def _context(model: Mapping[str, Any]) -> int:
    """Return the tokens that a sequence can have.

    Where all layers look at a window of tokens, the builder (0.18) leaves it out of the graph: it is right within one.
    """
    window = model["decoder"].get("sliding_window") or {}
    whole = int(model["context_length"])
    return min(whole, int(window["window_size"])) if window and not window.get("layers") else whole


def _defaults(search: Mapping[str, Any]) -> Defaults:
    samples = bool(search.get("do_sample", False))
    return Defaults(
        temperature=float(search.get("temperature", 1.0)) if samples else 0.0,
        top_p=float(search.get("top_p", 1.0)) if samples else 1.0,
        top_k=int(search.get("top_k", 0)) if samples else 0,
        repetition_penalty=float(search.get("repetition_penalty", 1.0)),
    )
