"""Take the source as the user has it and make sure it is what its `model.yaml` says, before any pass runs."""

from pathlib import Path
from typing import Final

from trimtab_api.errors import InvalidPackage, UnsafeFormat
from trimtab_api.spec import ModelFormat, ModelSource
from trimtab_optimizer.importers.collection import import_collection
from trimtab_optimizer.importers.empty import check_empty, is_large
from trimtab_optimizer.importers.genai import import_genai
from trimtab_optimizer.importers.huggingface import import_huggingface
from trimtab_optimizer.importers.litert import import_litert
from trimtab_optimizer.importers.onnx import import_onnx
from trimtab_optimizer.importers.pytorch import check_pytorch
from trimtab_optimizer.package import Model, load_package, refuse_edits

_NEITHER_TEACH_NOR_LEARN: Final = {
    ModelFormat.LITERT: "a LiteRT model",
    ModelFormat.GENAI: "a GenAI model",
    ModelFormat.COLLECTION: "a collection",
}


def import_source(source: ModelSource, folder: Path, target: Path) -> Model:
    """Return the source, checked; what is no PyTorch package is laid out in `target`.

    Raises InvalidPackage where it is not what its model.yaml says.
    """
    if source.format is ModelFormat.LITERT:
        return import_litert(_declared(source, folder), target)
    if source.format is ModelFormat.GENAI:
        return import_genai(source, folder, target)
    if source.format is ModelFormat.ONNX:
        return import_onnx(_declared(source, folder), target)
    if source.format is ModelFormat.COLLECTION:
        return import_collection(_declared(source, folder), target)
    model = _as_pytorch(source, folder, target)
    if is_large(model):
        check_empty(model)
    else:
        check_pytorch(model, source.allow_pickle)
    return model


def _as_pytorch(source: ModelSource, folder: Path, target: Path) -> Model:
    """Return the source as a PyTorch package."""
    match source.format:
        case ModelFormat.HUGGINGFACE:
            return import_huggingface(source, folder, target)
        case ModelFormat.TORCH_EXPORT:
            from trimtab_optimizer.importers.torch_export import import_torch_export  # late: seconds, for few sources

            return import_torch_export(_declared(source, folder), target)
        case ModelFormat.TORCHSCRIPT:
            from trimtab_optimizer.importers.torchscript import import_torchscript

            return import_torchscript(_declared(source, folder), target, source.allow_pickle)
        case _:
            return _declared(source, folder)


def _declared(source: ModelSource, folder: Path) -> Model:
    model = load_package(folder)
    if model.package.format is not source.format:
        said = f"model.yaml says format {model.package.format}, the spec says {source.format}"
        raise InvalidPackage(f"{said}; make spec.model.format match the package")
    refuse_edits(model)
    return model


def import_beside(folder: Path, uri: str, target: Path) -> Model:
    """Return a teacher or student, in the format of its model.yaml; nothing pickled is read. Raises InvalidPackage."""
    try:
        found = load_package(folder).package.format
        if kind := _NEITHER_TEACH_NOR_LEARN.get(found):
            raise InvalidPackage(f"{kind} can neither teach nor learn; give the PyTorch or ONNX package of it")
        return import_source(ModelSource(uri=uri, format=found), folder, target)
    except (InvalidPackage, UnsafeFormat) as error:
        raise type(error)(f"{uri}: {error}") from error
