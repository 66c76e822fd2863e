"""What a folder says of the model in it."""

from pathlib import Path

import yaml

from trimtab_api.errors import InvalidPackage, InvalidSpec
from trimtab_api.package import MANIFEST_FILE, ModelPackage
from trimtab_api.spec import ModelFormat


def read_manifest(folder: Path) -> ModelPackage:
    """Read model.yaml. Raises InvalidPackage where it is missing or wrong."""
    try:
        return ModelPackage.parse(yaml.safe_load((folder / MANIFEST_FILE).read_text()))
    except (OSError, UnicodeDecodeError, yaml.YAMLError, InvalidSpec) as error:
        raise InvalidPackage(f"{MANIFEST_FILE} cannot be read: {error}") from error


def is_generative(folder: Path) -> bool:
    """Tell whether a folder holds a generative model. Who loads it says what is wrong with a folder that is none."""
    try:
        return read_manifest(folder).format is ModelFormat.GENAI
    except InvalidPackage:
        return False
