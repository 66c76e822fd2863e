"""A model as a folder with `model.yaml`: read it, write it, and know how far it has come."""

import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path, PurePosixPath
from typing import Final

import yaml
from pydantic import ValidationError

from trimtab_api.contract import canonical_json, explain
from trimtab_api.errors import InvalidPackage
from trimtab_api.package import EDITS_FILE, MANIFEST_FILE, REPORT_FILE, SUMS_FILE, ModelPackage
from trimtab_api.spec import ModelFormat
from trimtab_optimizer.streaming.edits import StoredEdits, found_of
from trimtab_optimizer.streaming.weights import Edits

_TEXTS = frozenset({MANIFEST_FILE, REPORT_FILE, EDITS_FILE, SUMS_FILE})


class Stage(StrEnum):
    """How far a model has come; a pass takes a model at some stages and gives it back at one."""

    PYTORCH = "pytorch"
    PROGRAM = "an exported program"
    ONNX = "onnx"
    QUANTIZED = "quantized onnx"
    LITERT = "litert"
    SAVEDMODEL = "savedmodel"
    QUANTIZED_LITERT = "quantized litert"
    GENAI = "genai"
    QUANTIZED_GENAI = "quantized genai"
    COLLECTION = "a collection"


_STARTS: Final = {
    ModelFormat.ONNX: Stage.ONNX,
    ModelFormat.LITERT: Stage.LITERT,
    ModelFormat.GENAI: Stage.GENAI,
    ModelFormat.COLLECTION: Stage.COLLECTION,
}


def stage_of(source: ModelFormat) -> Stage:
    """Return where a source stands once it is imported."""
    return Stage.PROGRAM if source.is_program else _STARTS.get(source, Stage.PYTORCH)


@dataclass(frozen=True, slots=True)
class Waiting:
    """What stored weights still wait for, and the bytes of the model once it was done.

    `kept` tells of weights that were pruned how many values are not zero then.
    """

    edits: Edits
    size_bytes: int
    kept: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Model:
    """A model on disk. `package` is the content of the folder's `model.yaml`.

    Where `waiting` is given, the weights are those of an earlier model: who reads them makes its edits, or writes them
    first.
    """

    folder: Path
    package: ModelPackage
    waiting: Waiting | None = None

    @property
    def weights(self) -> Path:
        """Return the file with the weights; for ONNX and programs, the graph with them."""
        return confined(self.folder, self.package.weights_file)

    def size_bytes(self) -> int:
        """Return the bytes of what is loaded: external data of an ONNX graph too, a SavedModel beside LiteRT not."""
        if self.waiting:
            return self.waiting.size_bytes
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
        package = ModelPackage.model_validate(content)
        return Model(folder, package, _read_edits(folder, package.edits) if package.edits else None)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InvalidPackage(f"{MANIFEST_FILE} is not YAML: {error}") from error
    except ValidationError as error:
        raise InvalidPackage(f"{MANIFEST_FILE} is not valid: {explain(error)}") from error


def refuse_edits(model: Model) -> None:
    """Raise InvalidPackage for a package whose weights are not what they will be."""
    if model.package.edits:
        raise InvalidPackage("model.yaml has `edits`, as only results between two passes do; give a finished artifact")


def _read_edits(folder: Path, name: str) -> Waiting:
    stored = StoredEdits.model_validate_json(confined(folder, name).read_bytes())
    return Waiting(dict(stored.edits), stored.size_bytes, stored.kept)


def write_package(folder: Path, package: ModelPackage) -> Model:
    """Write `model.yaml` into a folder that holds the weights."""
    text = yaml.safe_dump(package.to_dict(), sort_keys=True, allow_unicode=False)
    (folder / MANIFEST_FILE).write_text(text, encoding="utf-8")
    return Model(folder, package)


def write_waiting(folder: Path, package: ModelPackage, waiting: Waiting) -> Model:
    """Write `model.yaml` and edits into a folder that holds weights which wait for them. They are found by now."""
    stored = StoredEdits(size_bytes=waiting.size_bytes, kept=dict(waiting.kept), edits=found_of(waiting.edits))
    (folder / EDITS_FILE).write_text(canonical_json(stored.to_dict()), encoding="utf-8")
    made = write_package(folder, package.model_copy(update={"edits": EDITS_FILE}))
    return Model(folder, made.package, Waiting(dict(stored.edits), stored.size_bytes, stored.kept))


def copy_beside_weights(model: Model, target: Path) -> None:
    """Copy all that a package has beside its weights into a new folder."""
    weights = model.weights
    shutil.copytree(model.folder, target, ignore=_only_in(weights.parent, frozenset({weights.name})))


def share_package(model: Model, target: Path) -> Model:
    """Lay a package out once more in a new folder; the bytes of its weights are there once."""
    if model.package.format is ModelFormat.ONNX:
        share_folder(model.folder, target, _TEXTS)
    else:
        copy_beside_weights(model, target)
        (target / EDITS_FILE).unlink(missing_ok=True)
        share_file(model.weights, target / model.weights.relative_to(model.folder))
    return write_package(target, model.package.model_copy(update={"edits": None}))


def share_folder(source: Path, target: Path, but: frozenset[str]) -> None:
    """Give all files of a folder second names in a new one, except some right within it."""
    shutil.copytree(source, target, copy_function=share_file, ignore=_only_in(source, but))


def _only_in(folder: Path, names: frozenset[str]) -> Callable[[str, list[str]], list[str]]:
    return lambda at, found: [name for name in found if Path(at) == folder and name in names]


def share_file(source: Path | str, target: Path | str) -> None:
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
