"""Large JSON bodies, whose numbers become arrays without a Python object for each: by simdjson.

What it cannot read in this way is left to who reads all JSON; so is every error, and its text.
"""

from threading import local
from typing import Any, Final

import numpy as np

_KINDS: Final = {  # of simdjson's buffers, and what numpy calls them
    **dict.fromkeys(("FP16", "FP32", "FP64"), ("d", np.dtype(np.float64))),
    **dict.fromkeys(("INT8", "INT16", "INT32", "INT64", "UINT8", "UINT16", "UINT32"), ("i", np.dtype(np.int64))),
    "UINT64": ("u", np.dtype(np.uint64)),
}
_KEPT: Final = 1 << 20  # bytes of bodies whose parser is kept: it holds several times as much
_MOST_LISTS: Final = 64  # of a body whose data are flat: each input has two
_LARGEST: Final = 16 << 20  # bytes: simdjson counts to 2**24 elements, and its binding writes more into a list of fewer

_own: Final = local()


def read_packed(body: bytes) -> Any:
    """Return a JSON object with the flat numbers of its `inputs` as arrays, [elements]; None where that cannot be."""
    if body[:1] != b"{" or len(body) > _LARGEST:
        return None
    lists = body.count(b"[")
    if lists > _MOST_LISTS:
        return None
    try:
        return _read(_parser(len(body)), body, lists)
    except (ValueError, TypeError, RuntimeError):  # no JSON, other numbers than were said, nested too deeply
        return None


def _parser(size: int) -> Any:
    import simdjson  # late: most servers never see a large body of JSON

    if size > _KEPT:
        return simdjson.Parser()
    if not hasattr(_own, "parser"):
        _own.parser = simdjson.Parser()
    return _own.parser


def _read(parser: Any, body: bytes, lists: int) -> dict[str, Any]:
    """Return the object; raises ValueError unless it has the `lists` of flat data and no others."""
    content = _fields(parser.parse(body))
    tensors: Any = content.get("inputs")
    if not _is_list(tensors):
        raise ValueError("no request of the protocol")
    if lists != 1 + 2 * len(tensors) + ("outputs" in content):
        raise ValueError("nested data")
    found = {key: _plain(value) for key, value in content.items() if key != "inputs"}
    return found | {"inputs": [_tensor(_fields(item)) for item in tensors]}


def _fields(read: Any) -> dict[str, Any]:
    """Return what an object holds, its lists and objects unread."""
    keys = list(read.keys()) if hasattr(read, "as_dict") else []
    if any("\0" in key for key in keys):
        raise ValueError("a key that the binding looks up by its beginning")
    found = {key: read[key] for key in keys}
    if not found or len(found) != len(keys):
        raise ValueError("no object, an empty one, or keys that come twice")
    return found


def _tensor(item: dict[str, Any]) -> dict[str, Any]:
    data: Any = item.get("data")
    kind = _KINDS.get(item["datatype"]) if isinstance(item.get("datatype"), str) else None
    if kind is None or not _is_list(data):
        return {key: _plain(value) for key, value in item.items()}
    of_type, dtype = kind
    packed = np.frombuffer(data.as_buffer(of_type=of_type), dtype)
    return {key: packed if key == "data" else _plain(value) for key, value in item.items()}


def _is_list(value: Any) -> bool:
    return hasattr(value, "as_buffer")


def _plain(value: Any) -> Any:
    if _is_list(value):
        return value.as_list()
    return value.as_dict() if hasattr(value, "as_dict") else value
