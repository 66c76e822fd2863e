"""Folders of ONNX Runtime GenAI: configuration, graph and tokenizer, as its model builder makes them.

`model.yaml` is optional: a decoder takes tokens and a mask, and gives logits.
"""

import json
from pathlib import Path
from typing import Any, Final

from trimtab_api.errors import InvalidPackage
from trimtab_api.package import CUSTOM_OPERATORS, GENAI_FILE, MANIFEST_FILE, Datatype, ModelPackage, Tensor
from trimtab_api.spec import ModelFormat, ModelSource
from trimtab_optimizer.importers.onnx import external_files, load_graph
from trimtab_optimizer.package import Model, confined, load_package, share_file, write_package
from trimtab_optimizer.store import Reference

_WORDS: Final = frozenset({".json", ".jinja", ".txt", ".model"})  # kinds of files of a tokenizer
_TOKENIZER: Final = "tokenizer.json"


def import_genai(source: ModelSource, folder: Path, target: Path) -> Model:
    """Lay a folder out in `target`. Raises InvalidPackage naming what is missing."""
    config = _read_config(folder)
    package = _declared(folder) if (folder / MANIFEST_FILE).is_file() else _described(config, source)
    graph = str(config["model"]["decoder"]["filename"])
    beside = external_files(load_graph(confined(folder, graph)))
    for name in (graph, *beside, _TOKENIZER):
        confined(folder, name)
    target.mkdir(parents=True)
    for path in sorted(folder.iterdir()):
        is_known = path.suffix in _WORDS or path.name in (graph, *beside)
        if path.is_file() and not path.is_symlink() and is_known:
            share_file(path, target / path.name)
    (target / MANIFEST_FILE).unlink(missing_ok=True)  # a second name of the source's own file
    return write_package(target, package.model_copy(update={"weights": graph}))


def _declared(folder: Path) -> ModelPackage:
    package = load_package(folder).package
    if package.format is not ModelFormat.GENAI:
        raise InvalidPackage(f"{MANIFEST_FILE} says format {package.format}, the spec says {ModelFormat.GENAI}")
    return package


def _read_config(folder: Path) -> dict[str, Any]:
    try:
        config: dict[str, Any] = json.loads(confined(folder, GENAI_FILE).read_bytes())
        if not isinstance(config["model"]["decoder"]["filename"], str):
            raise TypeError("decoder.filename is no text")
        int(config["model"]["vocab_size"])
        if CUSTOM_OPERATORS in str(config):
            raise ValueError(f"{CUSTOM_OPERATORS} names a library, and code of a folder never runs")
        return config
    except (ValueError, KeyError, TypeError) as error:
        raise InvalidPackage(
            f"{GENAI_FILE} describes no decoder ({error!r}); push a folder that the model builder of ONNX Runtime "
            "GenAI made"
        ) from error


def _described(config: dict[str, Any], source: ModelSource) -> ModelPackage:
    tokens = (-1, -1)
    return ModelPackage(
        name=Reference.parse(source.uri).repository.rpartition("/")[2],
        format=ModelFormat.GENAI,
        inputs=tuple(
            Tensor(name=name, datatype=Datatype.INT64, shape=tokens) for name in ("input_ids", "attention_mask")
        ),
        outputs=(Tensor(name="logits", shape=(*tokens, int(config["model"]["vocab_size"]))),),
    )
