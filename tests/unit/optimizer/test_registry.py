"""What can go wrong between the store and a registry: every failure is named, with its mend."""

import base64
import contextlib
import hashlib
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from trimtab_api.errors import InvalidPackage, RegistryUnavailable, SourceNotFound, Unauthorized
from trimtab_optimizer.store import images, open_store
from trimtab_optimizer.store.credentials import read_credentials


@pytest.fixture
def docker_config(tmp_path: Path) -> Callable[..., Path]:
    """Write a docker config as Kubernetes mounts it; each argument pair is a place and `user:password`."""

    def write(auths: dict[str, str], name: str = ".dockerconfigjson") -> Path:
        folder = tmp_path / f"config-{len(list(tmp_path.iterdir()))}"
        folder.mkdir()
        entries = {place: {"auth": base64.b64encode(text.encode()).decode()} for place, text in auths.items()}
        (folder / name).write_text(json.dumps({"auths": entries}))
        return folder

    return write


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "model"
    made.mkdir()
    (made / "model.yaml").write_text("name: tiny\n")
    return made


def test_a_private_registry_is_used_with_the_right_password(
    private_registry: Any, docker_config: Callable[..., Path], folder: Path, tmp_path: Path
) -> None:
    config = docker_config({private_registry.host: "trimtab:steersman"})
    store = open_store((private_registry.host,), (config,))

    digest = store.push(folder, f"{private_registry.host}/models/a", ("v1",), {})

    assert store.pull(f"oci://{private_registry.host}/models/a:v1", tmp_path / "out") == digest


def test_of_several_credentials_the_one_that_works_is_found(
    private_registry: Any, docker_config: Callable[..., Path], folder: Path
) -> None:
    host = private_registry.host
    wrong = docker_config({f"{host}/models": "trimtab:wrong", "elsewhere.local": "trimtab:steersman"})
    right = docker_config({f"https://{host}/v2/": "trimtab:steersman"}, name="config.json")

    digest = open_store((host,), (wrong, right)).push(folder, f"{host}/models/b", ("v1",), {})

    assert digest.startswith("sha256:")


@pytest.mark.parametrize("auths", [{}, {"elsewhere.local": "trimtab:steersman"}], ids=["none", "for another host"])
def test_no_credentials_are_unauthorized(
    private_registry: Any, docker_config: Callable[..., Path], auths: dict[str, str]
) -> None:
    store = open_store((private_registry.host,), (docker_config(auths),))

    with pytest.raises(Unauthorized, match=r"name a Secret of type kubernetes\.io/dockerconfigjson"):
        store.resolve(f"oci://{private_registry.host}/models/a:v1")


def test_a_wrong_password_is_unauthorized_for_reading_and_writing(
    private_registry: Any, docker_config: Callable[..., Path], folder: Path
) -> None:
    config = docker_config({private_registry.host: "trimtab:wrong"})
    store = open_store((private_registry.host,), (config,))

    with pytest.raises(Unauthorized, match="401"):
        store.find(f"{private_registry.host}/models/a", "v1")
    with pytest.raises(Unauthorized, match="401"):
        store.push(folder, f"{private_registry.host}/models/a", ("v1",), {})


def test_credentials_with_user_and_password_are_read(tmp_path: Path) -> None:
    auths = {"host.local": {"username": "ada", "password": "x:y"}}
    (tmp_path / "config.json").write_text(json.dumps({"auths": auths}))

    (credential,) = read_credentials((tmp_path,))

    assert base64.b64decode(credential.basic) == b"ada:x:y"
    assert credential.fits("host.local", "any/repository")
    assert not credential.fits("host.local.evil", "any/repository")


@pytest.mark.parametrize("text", ["not json", '{"auths": {"a": {"auth": "%%%"}}}', '{"auths": {"a": 7}}', "[]"])
def test_a_broken_docker_config_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text)

    with pytest.raises(Unauthorized, match=r"config\.json is not a docker config; make the Secret with"):
        read_credentials((tmp_path,))


def test_a_registry_that_is_down_is_unavailable(unused_tcp_port: int) -> None:
    host = f"127.0.0.1:{unused_tcp_port}"

    with pytest.raises(RegistryUnavailable, match=r"did not answer .* check that the registry runs"):
        open_store((host,)).resolve(f"oci://{host}/models/a:v1")


def test_plain_http_without_leave_names_the_mend(registry: Any) -> None:
    with pytest.raises(RegistryUnavailable, match="name it among the insecure registries"):
        open_store().resolve(f"oci://{registry.host}/models/a:v1")


class _Failing(BaseHTTPRequestHandler):
    """Answers with the status that its path names, and fails twice where the path says so."""

    failures = 2

    def do_GET(self) -> None:
        status = int(self.path.split("/")[2].removeprefix("status-"))
        if "recovers" in self.path and _Failing.failures == 0:
            status = 404
        elif "recovers" in self.path:
            _Failing.failures -= 1
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        return


@pytest.fixture
def serving() -> Iterator[Callable[[type[BaseHTTPRequestHandler]], str]]:
    """Start a server of some kind, and return its host."""
    with contextlib.ExitStack() as running:

        def serve(kind: type[BaseHTTPRequestHandler]) -> str:
            server = HTTPServer(("127.0.0.1", 0), kind)
            thread = threading.Thread(target=server.serve_forever)
            thread.start()
            for stop in (server.server_close, thread.join, server.shutdown):
                running.callback(stop)
            return f"127.0.0.1:{server.server_port}"

        yield serve


@pytest.fixture
def failing_host(serving: Callable[[type[BaseHTTPRequestHandler]], str]) -> str:
    return serving(_Failing)


@pytest.mark.parametrize("status", [500, 503, 429])
def test_a_failing_registry_is_unavailable(failing_host: str, status: int) -> None:
    with pytest.raises(RegistryUnavailable, match=rf"failed \({status}"):
        open_store((failing_host,)).find(f"{failing_host}/status-{status}/a", "v1")


def test_forbidden_is_unauthorized(failing_host: str) -> None:
    with pytest.raises(Unauthorized, match="403"):
        open_store((failing_host,)).find(f"{failing_host}/status-403/a", "v1")


def test_a_short_failure_is_sat_out(failing_host: str) -> None:
    with pytest.raises(SourceNotFound):
        open_store((failing_host,)).resolve(f"oci://{failing_host}/status-503/recovers:v1")


class _Uploads(BaseHTTPRequestHandler):
    """A registry that takes uploads, of which the first ends in the way that `fault` names."""

    fault = ""
    seen: list[str]
    sent: dict[str, bytes]
    kept: dict[str, bytes]

    @classmethod
    def with_fault(cls, fault: str) -> type["_Uploads"]:
        return type("Uploads", (cls,), {"fault": fault, "seen": [], "sent": {}, "kept": {}})

    def do_HEAD(self) -> None:
        self._answer(200 if self.path.rpartition("/")[2] in self.kept else 404)

    def do_POST(self) -> None:
        self.seen.append("POST")
        self._answer(202, Location=f"{self.path}{self.seen.count('POST')}")

    def do_PATCH(self) -> None:
        self.seen.append("PATCH")
        if self._fails("the connection breaks"):
            self.rfile.read(100)
            self.connection.close()
            return
        if self._fails("the answer comes too early"):
            self._answer(202, Location=self.path)
            self.close_connection = True
            return
        self.sent[self.path] = self._body()
        refused = self._fails("the session is forgotten") or (
            self.fault == "no chunks" and "Content-Range" in self.headers
        )
        self._answer(416 if refused or self._fails("no streams") else 202, Location=self.path)

    def do_PUT(self) -> None:
        place, _, digest = self.path.partition("?digest=")
        body = self._body()
        if digest:
            self.seen.append("PUT")
            if not body and place not in self.sent:
                self._answer(404)
                return
            self.kept[digest.replace("%3A", ":")] = body or self.sent.pop(place)
            if self._fails("the last answer is lost"):
                self.connection.close()
                return
        self._answer(201)

    def _fails(self, fault: str) -> bool:
        return self.fault == fault and self.seen.count("POST") == 1

    def _body(self) -> bytes:
        return self.rfile.read(int(self.headers["Content-Length"]))

    def _answer(self, status: int, **headers: str) -> None:
        self.send_response(status)
        for name, value in (headers | {"Content-Length": "0"}).items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        return


_FAULTS = {
    "": ["POST", "PATCH", "PUT"],
    "no chunks": ["POST", "PATCH", "PUT"],
    "no streams": ["POST", "PATCH", "POST", "PUT"],
    "the connection breaks": ["POST", "PATCH", "POST", "PUT"],
    "the answer comes too early": ["POST", "PATCH", "POST", "PUT"],
    "the session is forgotten": ["POST", "PATCH", "POST", "PUT"],
    "the last answer is lost": ["POST", "PATCH", "PUT"],
}


@pytest.mark.parametrize("fault", _FAULTS)
def test_an_upload_that_goes_wrong_is_made_again_and_nothing_is_sent_for_no_reason(
    fault: str, serving: Callable[[type[BaseHTTPRequestHandler]], str], tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "model.bin").write_bytes(b"weights" * 2_000_000)
    registry = _Uploads.with_fault(fault)
    host = serving(registry)

    open_store((host,)).push(folder, f"{host}/models/a", ("v1",), {}, is_new=True)

    wanted = _FAULTS[fault]
    seen = [
        what
        for what, before in zip(registry.seen, ["", *registry.seen], strict=False)
        if (what, before) != ("PUT", "PUT")
    ]
    assert seen == [*wanted, "POST", "PATCH", "PUT"]  # of the layer, and of the configuration
    for digest, content in registry.kept.items():
        assert digest == f"sha256:{hashlib.sha256(content).hexdigest()}"
    assert len(registry.kept) == 2


def test_a_file_that_changes_while_it_is_sent_is_refused(
    serving: Callable[[type[BaseHTTPRequestHandler]], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "model.bin").write_bytes(b"weights" * 1000)
    layers = images.layers_of(folder)
    monkeypatch.setattr(images, "layers_of", lambda folder: layers)
    host = serving(_Uploads.with_fault(""))

    for changed in (b"fewer", b"many more weights" * 1000):
        (folder / "model.bin").write_bytes(changed)
        with pytest.raises(InvalidPackage, match=r"model\.bin changed while it was sent"):
            open_store((host,)).push(folder, f"{host}/models/a", ("v1",), {}, is_new=True)
