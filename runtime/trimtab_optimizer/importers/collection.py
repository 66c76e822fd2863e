"""Collections: each of their packages is checked as if it came alone, and laid out in its folder."""

from pathlib import Path

from trimtab_api.errors import InvalidPackage
from trimtab_api.package import MANIFEST_FILE
from trimtab_api.spec import ModelFormat
from trimtab_optimizer.importers.litert import import_litert
from trimtab_optimizer.importers.onnx import import_onnx
from trimtab_optimizer.package import Model, confined, load_package, refuse_edits, write_package


def import_collection(model: Model, target: Path) -> Model:
    """Check a collection and lay its models out in `target`. Raises InvalidPackage naming the model that is wrong."""
    target.mkdir(parents=True)
    for item in model.package.models or ():
        try:
            _import(confined(model.folder, f"{item.folder}/{MANIFEST_FILE}").parent, target / item.folder)
        except InvalidPackage as error:
            raise InvalidPackage(f"the model in {item.folder}: {error}") from error
    return write_package(target, model.package)


def _import(folder: Path, target: Path) -> Model:
    found = load_package(folder)
    refuse_edits(found)
    if found.package.format is ModelFormat.ONNX:
        return import_onnx(found, target)
    if found.package.format is ModelFormat.LITERT:
        return import_litert(found, target)
    raise InvalidPackage(
        f"it has the format {found.package.format}, and a collection is served as it is: give onnx or litert packages, "
        "such as artifacts that other ModelDeployments made"
    )
