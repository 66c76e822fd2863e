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


@pytest.fixture(scope="session")
def triton() -> Path:
    """Return the Python that has Triton's clients; their protobuf messages would collide with ours in one process."""
    return interpreter("tritonclient", CLIENTS / "tritonclient.txt")


def test_tritons_clients_get_the_same_answers_by_every_way(
    http: httpx.Client, served: Served, triton: Path, tmp_path: Path
) -> None:
    if served.grpc is None:
        pytest.skip("OIP_GRPC names no address")
    rows = served.rows(2)
    stored = {
        name: np.array([text.encode() for text in array.ravel()]).reshape(array.shape)
        if array.dtype == object
        else array
        for name, array in rows.items()
    }
    np.savez(tmp_path / "rows.npz", **stored)
    command = [triton, CLIENTS / "triton.py", served.url.removeprefix("http://"), served.grpc, served.model]

    done = subprocess.run([*command, tmp_path / "rows.npz"], capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
    ways = json.loads(done.stdout)
    expected = arrays_of(infer(http, served, rows))
    assert len(ways) >= 5
    for way, outputs in ways.items():
        assert sorted(outputs) == sorted(expected), way
        assert all(same(decoded(outputs[name]), expected[name]) for name in expected), way


def decoded(output: dict[str, Any]) -> Any:
    if "texts" in output:
        return np.array(output["texts"], object).reshape(output["shape"])
    return np.frombuffer(base64.b64decode(output["raw"]), output["dtype"]).reshape(output["shape"])
