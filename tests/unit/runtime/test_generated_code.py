"""The generated code is that of the .proto file, and the version is that of the project."""

import tomllib
from pathlib import Path

from grpc_tools import protoc  # type: ignore[import-untyped]

import trimtab_runtime
from trimtab_runtime.dataplane import SERVER_VERSION

PACKAGE = Path(trimtab_runtime.__file__).parent


def test_generating_again_gives_the_same_code(tmp_path: Path) -> None:
    outputs = [f"--{kind}_out={tmp_path}" for kind in ("python", "pyi", "grpc_python")]
    assert protoc.main(["protoc", f"-I{PACKAGE.parent}", *outputs, str(PACKAGE / "protocol/oip.proto")]) == 0
    for name in ("oip_pb2.py", "oip_pb2.pyi", "oip_pb2_grpc.py"):
        file = f"trimtab_runtime/protocol/{name}"
        assert (tmp_path / file).read_text() == (PACKAGE.parent / file).read_text()


def test_the_server_says_the_version_of_the_project() -> None:
    project = tomllib.loads((PACKAGE.parents[1] / "pyproject.toml").read_text())
    assert project["project"]["version"] == SERVER_VERSION
