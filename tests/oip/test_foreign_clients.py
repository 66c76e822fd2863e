"""Clients that others wrote get from the server what the protocol's own words get."""

import base64
import json
import subprocess
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from asking import arrays_of, infer
from served import Served, same
from trimtab_testing.environments import interpreter

CLIENTS = Path(__file__).parent / "clients"


# Each client has a Python of its own: their protobuf messages would collide with ours in one process.
KSERVE = Path(__file__).parents[1] / "bench/servers/kserve.txt"
PROGRAMS = {
    "tritonclient": (CLIENTS / "tritonclient.txt", CLIENTS / "triton.py"),
    "kserve": (KSERVE, CLIENTS / "kserve_sdk.py"),
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_clients_of_others_get_the_same_answers_by_every_way(
    http: httpx.Client, served: Served, name: str, tmp_path: Path
) -> None:
    if served.grpc is None:
        pytest.skip("OIP_GRPC names no address")
    pins, program = PROGRAMS[name]
    rows = served.rows(2)
    stored = {
        key: np.array([text.encode() for text in array.ravel()]).reshape(array.shape)
        if array.dtype == object
        else array
        for key, array in rows.items()
    }
    np.savez(tmp_path / "rows.npz", **stored)
    command = [interpreter(name, pins), program, address(served, name), served.grpc, served.model]

    done = subprocess.run([*command, tmp_path / "rows.npz"], capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
    ways = json.loads(done.stdout)
    expected = arrays_of(infer(http, served, rows))
    assert len(ways) >= 3
    for way, outputs in ways.items():
        assert sorted(outputs) == sorted(expected), way
        assert all(same(decoded(outputs[key]), expected[key]) for key in expected), way


def address(served: Served, client: str) -> str:
    """Return the address of REST as a client wants it."""
    return served.url.removeprefix("http://") if client == "tritonclient" else served.url


def decoded(output: dict[str, Any]) -> Any:
    if "texts" in output:
        return np.array(output["texts"], object).reshape(output["shape"])
    return np.frombuffer(base64.b64decode(output["raw"]), output["dtype"]).reshape(output["shape"])
