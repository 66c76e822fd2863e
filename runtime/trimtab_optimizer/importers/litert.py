"""LiteRT packages: the file is loaded, its signature held against model.yaml, and laid out like an artifact."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from trimtab_api.errors import InvalidPackage
from trimtab_api.package import LITERT_FILE, Tensor, signature_name
from trimtab_optimizer.litert.file import open_interpreter, signature_of
from trimtab_optimizer.package import Model, write_package
from trimtab_optimizer.tensors import check_shape, dtype_of


def import_litert(model: Model, target: Path) -> Model:
    """Check a LiteRT package and copy the file to `target`. Raises InvalidPackage."""
    source = model.weights
    inputs, outputs = signature_of(open_interpreter(source), source)
    _compare("input", inputs, model.package.inputs)
    _compare("output", outputs, model.package.outputs)
    target.mkdir(parents=True)
    shutil.copyfile(source, target / LITERT_FILE)
    return write_package(target, model.package.model_copy(update={"weights": LITERT_FILE, "entrypoint": None}))


def _compare(what: str, found: Mapping[str, Any], tensors: tuple[Tensor, ...]) -> None:
    wanted = {signature_name(tensor.name) for tensor in tensors}
    wrong = set(found) ^ wanted if what == "input" else wanted - set(found)  # outputs may be left out
    if wrong:
        raise InvalidPackage(f"the signature has the {what}s {sorted(found)}, model.yaml says {sorted(wanted)}")
    for tensor in tensors:
        _compare_one(what, found[signature_name(tensor.name)], tensor)


def _compare_one(what: str, found: Mapping[str, Any], tensor: Tensor) -> None:
    if np.dtype(found["dtype"]) != dtype_of(tensor):
        raise InvalidPackage(f"{what} {tensor.name} is {np.dtype(found['dtype'])}, model.yaml says {tensor.datatype}")
    lengths = [int(length) for length in found["shape_signature"]]
    if what == "input" and lengths[:1] != [-1]:
        mend = "export it again with a free first axis"
        raise InvalidPackage(f"input {tensor.name} has the fixed shape {lengths}, and rows come in batches; {mend}")
    check_shape(what, tensor, lengths)
