"""What the programs that ask by clients of others take and give: `PROGRAM URL GRPC MODEL ROWS`, answers as JSON.

ROWS is a file of numpy's with an array for each input. Texts are of bytes.
"""

import base64
import sys

import numpy as np

URL, GRPC, MODEL, ROWS = sys.argv[1:]


def read_rows():
    with np.load(ROWS, allow_pickle=False) as stored:
        return {
            name: stored[name].astype(object) if stored[name].dtype.kind == "S" else stored[name] for name in stored
        }


def encoded(array):
    if array.dtype.kind in "OSU":
        texts = [item if isinstance(item, bytes) else str(item).encode() for item in array.ravel()]
        return {"shape": array.shape, "texts": [text.decode() for text in texts]}
    raw = base64.b64encode(np.ascontiguousarray(array).tobytes()).decode()
    return {"shape": array.shape, "dtype": str(array.dtype), "raw": raw}
