"""Take the source as the user has it and make sure it is what its `model.yaml` says, before any pass runs."""

from pathlib import Path

from trimtab_api.errors import InvalidPackage, UnsafeFormat
from trimtab_api.spec import ModelFormat, ModelSource
from trimtab_optimizer.importers.empty import check_empty, is_large
from trimtab_optimizer.importers.huggingface import import_huggingface
from trimtab_optimizer.importers.litert import import_litert
from trimtab_optimizer.importers.onnx import import_onnx
from trimtab_optimizer.importers.pytorch import check_pytorch
from trimtab_optimizer.package import Model, load_package


def import_source(source: ModelSource, folder: Path, target: Path) -> Model:
    """Return the source, checked; one that can be served is laid out in `target` like an artifact.

    Raises InvalidPackage where it is not what its model.yaml says.
    """
    if source.format is ModelFormat.LITERT:
        return import_litert(_declared(source, folder), target)
    if source.format is ModelFormat.ONNX:
        return import_onnx(_declared(source, folder), target)
    is_folder = source.format is ModelFormat.HUGGINGFACE
    model = import_huggingface(source, folder, target) if is_folder else _declared(source, folder)
    _check(model, source.allow_pickle)
    return model


def _check(model: Model, allow_pickle: bool) -> None:
    if is_large(model):
        check_empty(model)
    else:
        check_pytorch(model, allow_pickle)


def _declared(source: ModelSource, folder: Path) -> Model:
    model = load_package(folder)
    if model.package.format is not source.format:
        said = f"model.yaml says format {model.package.format}, the spec says {source.format}"
        raise InvalidPackage(f"{said}; make spec.model.format match the package")
    return model


def import_beside(folder: Path, uri: str) -> Model:
    """Return a teacher or student, checked as it is; pickled weights are never read. Raises InvalidPackage."""
    try:
        model = load_package(folder)
        if model.package.format is ModelFormat.LITERT:
            raise InvalidPackage("a LiteRT model can neither teach nor learn; give the PyTorch or ONNX package of it")
        if model.package.format is ModelFormat.PYTORCH:
            _check(model, allow_pickle=False)
    except (InvalidPackage, UnsafeFormat) as error:
        raise type(error)(f"{uri}: {error}") from error
    return model
