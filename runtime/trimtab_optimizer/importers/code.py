"""Code of a package: imported from its own folder, and forgotten afterwards.

It runs in this process; the Job is its cage (no token, read-only root, no other network).
"""

import importlib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from trimtab_api.errors import InvalidPackage


def find_callable(folder: Path, name: str, what: str) -> Callable[..., object]:
    """Return what `module:callable` names in a package; `what` it is for. Raises InvalidPackage."""
    module_name, _, attribute = name.partition(":")
    if not module_name or not attribute:
        raise InvalidPackage(f"{what} `{name}` is not of the form module:callable")
    try:
        module = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:
        raise InvalidPackage(f"{what} {name} cannot be imported: {type(error).__name__}: {flat(error)}") from error
    origin = getattr(module, "__file__", None)
    if origin is None or folder.resolve() not in Path(origin).resolve().parents:
        raise InvalidPackage(f"{what} {name}: `{module_name}` is not a module of the package; rename or add it")
    found = getattr(module, attribute, None)
    if not callable(found):
        raise InvalidPackage(f"{what} {name}: {module_name} has no callable `{attribute}`")
    return found  # type: ignore[no-any-return]


@contextmanager
def importable(folder: Path) -> Iterator[None]:
    """Let modules of the package be imported; forget them afterwards, since the next package may use the same names."""
    before, writes = set(sys.modules), sys.dont_write_bytecode
    place = str(folder.resolve())
    sys.path.insert(0, place)
    sys.dont_write_bytecode = True
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path.remove(place)
        sys.dont_write_bytecode = writes
        for name in set(sys.modules) - before:
            if place in str(getattr(sys.modules[name], "__file__", "")):
                del sys.modules[name]


def flat(error: BaseException) -> str:
    """Return the text of an error in one line, cut where it is long."""
    return " ".join(str(error).split())[:500]
