"""A model as a folder with `model.yaml`: read it, write it, and know how far it has come."""

import os
import shutil
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path, PurePosixPath
from typing import Final

import yaml
from pydantic import ValidationError

from trimtab_api.contract import explain
from trimtab_api.errors import InvalidPackage
from trimtab_api.package import MANIFEST_FILE, REPORT_FILE, ModelPackage
from trimtab_api.spec import ModelFormat

_TEXTS = frozenset({MANIFEST_FILE, REPORT_FILE})


class Stage(StrEnum):
    """How far a model has come; a pass takes a model at some stages and gives it back at one."""

    PYTORCH = "pytorch"
    PROGRAM = "an exported program"
    ONNX = "onnx"
    QUANTIZED = "quantized onnx"
    LITERT = "litert"
    SAVEDMODEL = "savedmodel"
    QUANTIZED_LITERT = "quantized litert"


_STARTS: Final = {ModelFormat.ONNX: Stage.ONNX, ModelFormat.LITERT: Stage.LITERT}


def stage_of(source: ModelFormat) -> Stage:
    """Return where a source stands once it is imported."""
    return Stage.PROGRAM if source.is_program else _STARTS.get(source, Stage.PYTORCH)


@dataclass(frozen=True, slots=True)
class Model:
    """A model on disk. `package` is the content of the folder's `model.yaml`."""

    folder: Path
    package: ModelPackage

    @property
    def weights(self) -> Path:
        """Return the file with the weights; for ONNX and programs, the graph with them."""
        return confined(self.folder, self.package.weights_file)

    def size_bytes(self) -> int:
        """Return the bytes of what is loaded: external data of an ONNX graph too, a SavedModel beside LiteRT not."""
        if self.package.format in (ModelFormat.PYTORCH, ModelFormat.LITERT):
            return self.weights.stat().st_size
        return sum(path.stat().st_size for path in self.folder.rglob("*") if path.is_file() and path.name not in _TEXTS)


def load_package(folder: Path) -> Model:
    """Read `model.yaml`. Raises InvalidPackage naming what is missing or wrong in it."""
    path = folder / MANIFEST_FILE
    if not path.is_file():
        found = ", ".join(sorted(item.name for item in folder.iterdir())[:10]) or "nothing"
        raise InvalidPackage(
            f"the package has no {MANIFEST_FILE} (found: {found}); add one that names format and inputs"
        )
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        return Model(folder, ModelPackage.model_validate(content))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InvalidPackage(f"{MANIFEST_FILE} is not YAML: {error}") from error
    except ValidationError as error:
        raise InvalidPackage(f"{MANIFEST_FILE} is not valid: {explain(error)}") from error


def write_package(folder: Path, package: ModelPackage) -> Model:
    """Write `model.yaml` into a folder that holds the weights."""
    text = yaml.safe_dump(package.to_dict(), sort_keys=True, allow_unicode=False)
    (folder / MANIFEST_FILE).write_text(text, encoding="utf-8")
    return Model(folder, package)


def copy_beside_weights(model: Model, target: Path) -> None:
    """Copy all that a package has beside its weights into a new folder."""
    weights = model.weights
    shutil.copytree(
        model.folder, target, ignore=lambda folder, names: [weights.name] if folder == str(weights.parent) else []
    )


def share_file(source: Path, target: Path) -> None:
    """Give a file that nobody changes a second name; where the file system has none, copy it."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def confined(folder: Path, name: str) -> Path:
    """Return a file of the package. Raises InvalidPackage for names that lead outside and for missing files."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or not path.parts:
        raise InvalidPackage(f"`{name}` leads outside the package; name a file inside it")
    found = folder / path
    if any(part.is_symlink() for part in (found, *found.parents) if part != folder and folder in part.parents):
        raise InvalidPackage(f"`{name}` is a link; put the file itself into the package")
    if not found.is_file():
        raise InvalidPackage(f"the package has no file `{name}`; add it or mend its name in {MANIFEST_FILE}")
    return found
