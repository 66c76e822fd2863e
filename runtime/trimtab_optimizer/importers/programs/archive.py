"""The .pt2 archive: a graph as JSON, and tensors as raw bytes. Whatever else it holds is not read.

Pickles are refused, since reading one can run code: torch writes them for tensor subclasses and custom objects. Example
inputs, libraries that were compiled ahead and extra files are left where they are.
"""

import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import torch

from trimtab_api.errors import InvalidPackage, UnsafeFormat

_FORMAT: Final = "archive_format"
_GRAPH: Final = "models/model.json"
_WEIGHTS: Final = "data/weights/"
_CONSTANTS: Final = "data/constants/"
_OLD: Final = ("serialized_exported_program.json", "data/weights/model.pt", "data/constants/model.pt")
_AGAIN: Final = "save it again with torch.export.save"

# The numbers of torch's schema, as this version writes them; what is not here, such as quantized types, is refused.
_DTYPES: Final[Mapping[int, torch.dtype]] = MappingProxyType(
    {
        1: torch.uint8,
        2: torch.int8,
        3: torch.int16,
        4: torch.int32,
        5: torch.int64,
        6: torch.float16,
        7: torch.float32,
        8: torch.float64,
        12: torch.bool,
        13: torch.bfloat16,
    }
)


@dataclass(frozen=True, slots=True)
class Archive:
    """`program` is the graph, not checked yet; tensors by name. Names for one tensor share it."""

    program: dict[str, Any]
    weights: Mapping[str, torch.Tensor] = field(default_factory=dict)
    constants: Mapping[str, torch.Tensor] = field(default_factory=dict)


def read_archive(path: Path) -> Archive:
    """Read a file of torch.export.save. Raises InvalidPackage for other files, UnsafeFormat for pickled tensors."""
    try:
        with zipfile.ZipFile(path) as opened:
            members = _Members(path.name, opened)
            weights = _tensors(members, _WEIGHTS, "weights_config.json")
            return Archive(members.json(_GRAPH), weights, _tensors(members, _CONSTANTS, "constants_config.json"))
    except (zipfile.BadZipFile, EOFError, OSError, NotImplementedError, RuntimeError, ValueError) as error:
        raise InvalidPackage(f"{path.name} is not a whole .pt2 file ({_flat(error)}); {_AGAIN}") from error
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise InvalidPackage(f"{path.name} has a damaged list of tensors ({error!r}); {_AGAIN}") from error


class _Members:
    """The files of an archive, below the one folder that it has."""

    def __init__(self, name: str, opened: zipfile.ZipFile) -> None:
        self.name, self._opened = name, opened
        self._infos = {info.filename.partition("/")[2]: info for info in opened.infolist()}
        old = [item for item in _OLD if item in self._infos or item in opened.namelist()]
        if old:
            raise InvalidPackage(f"{name} was written by an older torch ({old[0]}); {_AGAIN} of torch 2.13")
        if _FORMAT not in self._infos or self.read(_FORMAT) != b"pt2" or _GRAPH not in self._infos:
            raise InvalidPackage(f"{name} holds no whole program of torch.export; {_AGAIN}")

    def read(self, member: str) -> bytes:
        info = self._infos.get(member)
        if info is None:
            raise InvalidPackage(f"{self.name} has no {member}; {_AGAIN}")
        if info.compress_type != zipfile.ZIP_STORED:  # torch never does, and a small file could unpack without end
            raise InvalidPackage(f"{self.name}: {member} is compressed; {_AGAIN}")
        return self._opened.read(info)

    def json(self, member: str) -> dict[str, Any]:
        found = json.loads(self.read(member))
        if not isinstance(found, dict):
            raise InvalidPackage(f"{self.name}: {member} is not an object; {_AGAIN}")
        return found


def _tensors(members: _Members, folder: str, listing: str) -> dict[str, torch.Tensor]:
    entries = members.json(f"{folder}model_{listing}")["config"]
    made: dict[str, torch.Tensor] = {}
    found = {}
    for name, entry in entries.items():
        _refuse_pickled(members.name, name, entry)
        key = json.dumps([entry["path_name"], entry["is_param"], entry["tensor_meta"]], sort_keys=True)
        if key not in made:
            made[key] = _tensor(members, f"{folder}{entry['path_name']}", name, entry)
        found[name] = made[key]
    return found


def _refuse_pickled(file: str, name: str, entry: dict[str, Any]) -> None:
    if entry["use_pickle"] or entry["tensor_meta"] is None:
        mend = "export the module with plain tensors (no tensor subclasses, no custom objects)"
        raise UnsafeFormat(f"{file}: {name} is pickled: reading it can run any code; {mend}")


def _tensor(members: _Members, member: str, name: str, entry: dict[str, Any]) -> torch.Tensor:
    meta = entry["tensor_meta"]
    dtype = _DTYPES.get(meta["dtype"])
    if dtype is None:
        raise InvalidPackage(f"{members.name}: {name} has a type that is not known here (number {meta['dtype']})")
    sizes, strides = ([item["as_int"] for item in meta[key]] for key in ("sizes", "strides"))
    content = bytearray(members.read(member))
    flat = torch.frombuffer(content, dtype=dtype) if content else torch.empty(0, dtype=dtype)
    laid = torch.as_strided(flat, sizes, strides, meta["storage_offset"]["as_int"]).contiguous()
    return torch.nn.Parameter(laid, bool(meta["requires_grad"])) if entry["is_param"] else laid


def _flat(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]
