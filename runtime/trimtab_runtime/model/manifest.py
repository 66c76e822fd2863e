"""What a folder says of the models in it."""

from dataclasses import dataclass
from pathlib import Path

import yaml

from trimtab_api.errors import InvalidPackage, InvalidSpec
from trimtab_api.package import MANIFEST_FILE, ModelPackage
from trimtab_api.spec import ModelFormat


@dataclass(frozen=True, slots=True)
class Offered:
    """A model that is to be served: how callers name it, and its folder.

    It `has_own_version` where that is not the server's revision.
    """

    name: str
    version: str
    folder: Path
    has_own_version: bool = False


def read_manifest(folder: Path) -> ModelPackage:
    """Read model.yaml. Raises InvalidPackage where it is missing or wrong."""
    try:
        return ModelPackage.parse(yaml.safe_load((folder / MANIFEST_FILE).read_text()))
    except (OSError, UnicodeDecodeError, yaml.YAMLError, InvalidSpec) as error:
        raise InvalidPackage(f"{MANIFEST_FILE} cannot be read: {error}") from error


def offered(folder: Path, package: ModelPackage, name: str, revision: str) -> tuple[Offered, ...]:
    """Return the models of a package; the only one has the server's name and revision."""
    if package.models is None:
        return (Offered(name, revision, folder),)
    return tuple(
        Offered(item.name, item.version or revision, folder / item.folder, item.version is not None)
        for item in package.models
    )


def is_generative(folder: Path) -> bool:
    """Tell whether a folder holds a generative model. Who loads it says what is wrong with a folder that is none."""
    try:
        return read_manifest(folder).format is ModelFormat.GENAI
    except InvalidPackage:
        return False


def count_models(folder: Path) -> int:
    """Return how many models a folder has; who loads them says what is wrong with one that has none."""
    try:
        return len(read_manifest(folder).models or (None,))
    except InvalidPackage:
        return 1
