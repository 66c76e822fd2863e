"""Checkpoints in several safetensors files, put together into one without holding any tensor."""

import json
import shutil
import struct
from pathlib import Path
from typing import Any, Final

from pydantic import TypeAdapter
from typing_extensions import TypedDict

from trimtab_api.errors import InvalidPackage


class _Stored(TypedDict):
    dtype: str
    shape: list[int]
    data_offsets: tuple[int, int]


_HEADER: Final = TypeAdapter(dict[str, _Stored])


def read_header(file: Path) -> tuple[int, dict[str, Any]]:
    """Return where the bytes of a safetensors file begin, and what its header says of each tensor.

    Raises InvalidPackage for other files and for one that ends before its last tensor.
    """
    try:
        with file.open("rb") as stored:
            (length,) = struct.unpack("<Q", stored.read(8))
            said = json.loads(stored.read(length))
        if isinstance(said, dict):
            said.pop("__metadata__", None)
        header = _HEADER.validate_python(said)
    except (OSError, struct.error, ValueError, TypeError, OverflowError, MemoryError) as error:
        cause = " ".join(str(error).split())[:200]
        raise InvalidPackage(f"{file.name} is not a safetensors file ({cause}); save it again") from error
    for name, item in header.items():
        start, end = item["data_offsets"]
        if not 0 <= start <= end or any(length < 0 for length in item["shape"]):
            raise InvalidPackage(f"{file.name} gives tensor {name} a place or shape that is none; save it again")
        if 8 + length + end > file.stat().st_size:
            raise InvalidPackage(f"{file.name} ends within tensor {name}; copy or download it again")
    return 8 + length, dict(header)


def encode_header(header: dict[str, Any]) -> bytes:
    """Return the bytes before the first tensor of a safetensors file."""
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


def merge_shards(index: Path, target: Path) -> None:
    """Write the tensors of all shards that an index names into one file. Raises InvalidPackage naming a bad shard."""
    try:
        names = sorted(set(json.loads(index.read_bytes())["weight_map"].values()))
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise InvalidPackage(f"{index.name} has no weight_map ({error!r}); download it again") from error
    shards = [(index.with_name(Path(name).name), *read_header(_present(index, name))) for name in names]
    header: dict[str, Any] = {}
    end = 0
    for _, _, tensors in shards:
        for name, item in tensors.items():
            start, stop = item["data_offsets"]
            header[name] = item | {"data_offsets": [end + start, end + stop]}
        end += max((item["data_offsets"][1] for item in tensors.values()), default=0)
    with target.open("wb") as file:
        file.write(encode_header(header))
        for shard, begin, _ in shards:
            with shard.open("rb") as stored:
                stored.seek(begin)
                shutil.copyfileobj(stored, file, 8 << 20)


def _present(index: Path, name: str) -> Path:
    shard = index.with_name(Path(name).name)
    if not shard.is_file():
        raise InvalidPackage(f"{index.name} names {name}, which is not there; push the whole folder")
    return shard
