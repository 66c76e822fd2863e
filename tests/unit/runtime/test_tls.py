"""Both ports over TLS, with and without certificates of callers, and a certificate that is renewed meanwhile."""

import ssl
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
import trustme

from trimtab_runtime.protocol import oip_pb2, oip_pb2_grpc

Stub: Any = oip_pb2_grpc.GRPCInferenceServiceStub
BODY = {"inputs": [{"name": "x", "shape": [1, 3], "datatype": "FP32", "data": [1, 2, 3]}]}


class Authority:
    """A certificate authority, and files that it signs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._authority = trustme.CA()
        self.file = folder / "authority.pem"
        self._authority.cert_pem.write_to_path(str(self.file))

    def sign(self, name: str = "server") -> dict[str, str]:
        """Write a new certificate for loopback, and return the settings that name it."""
        issued = self._authority.issue_cert("127.0.0.1", "localhost")
        certificate, key = self.folder / f"{name}.pem", self.folder / f"{name}.key"
        certificate.write_bytes(b"".join(part.bytes() for part in issued.cert_chain_pems))
        issued.private_key_pem.write_to_path(str(key))
        return {"TLS_CERTIFICATE": str(certificate), "TLS_KEY": str(key)}

    def context(self, name: str | None = None) -> ssl.SSLContext:
        """Return what a client trusts, and by what it is known."""
        context = ssl.create_default_context(cafile=str(self.file))
        if name:
            context.load_cert_chain(self.folder / f"{name}.pem", self.folder / f"{name}.key")
        return context

    def credentials(self, name: str | None = None) -> Any:
        pair = [(self.folder / f"{name}.{kind}").read_bytes() for kind in ("key", "pem")] if name else [None, None]
        return grpc.ssl_channel_credentials(self.file.read_bytes(), *pair)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def ask(server: Any, authority: Authority, name: str | None = None) -> list[float]:
    """Return the answer over REST."""
    url = server.url.replace("http:", "https:")
    answer = httpx.post(f"{url}/v2/models/scores/infer", json=BODY, verify=authority.context(name))
    found: list[float] = answer.json()["outputs"][0]["data"]
    return found


def is_live(server: Any, authority: Authority, name: str | None = None) -> bool:
    """Ask over gRPC."""
    with grpc.secure_channel(server.grpc, authority.credentials(name)) as channel:
        return bool(Stub(channel).ServerLive(oip_pb2.ServerLiveRequest(), timeout=10).live)


@pytest.mark.parametrize("engine", ["lean", "grpcio"])
def test_both_ports_speak_tls(models: Any, serve: Any, authority: Authority, engine: str) -> None:
    server = serve(models.scores(), GRPC_ENGINE=engine, **authority.sign())

    assert ask(server, authority) == [16, 22]
    assert is_live(server, authority)
    with pytest.raises(httpx.TransportError):
        httpx.get(f"{server.url}/v2")
    with grpc.insecure_channel(server.grpc) as channel, pytest.raises(grpc.RpcError):
        Stub(channel).ServerLive(oip_pb2.ServerLiveRequest(), timeout=2)


@pytest.mark.parametrize("engine", ["lean", "grpcio"])
def test_a_caller_without_the_certificate_asked_for_is_not_heard(
    models: Any, serve: Any, authority: Authority, engine: str
) -> None:
    authority.sign("caller")
    server = serve(models.scores(), GRPC_ENGINE=engine, **authority.sign(), TLS_CLIENT_CA=str(authority.file))

    assert ask(server, authority, "caller") == [16, 22]
    assert is_live(server, authority, "caller")
    with pytest.raises(httpx.TransportError):
        ask(server, authority)
    with pytest.raises(grpc.RpcError):
        is_live(server, authority)


def test_a_renewed_certificate_is_taken_without_a_restart(models: Any, serve: Any, authority: Authority) -> None:
    server = serve(models.scores(), **authority.sign())
    before = serial(server)
    authority.sign()
    server.wait_for("certificate renewed")

    assert serial(server) != before
    assert ask(server, authority) == [16, 22]
    assert is_live(server, authority)


def test_a_certificate_without_its_key_leaves_the_one_before_in_use(
    models: Any, serve: Any, authority: Authority
) -> None:
    server = serve(models.scores(), **authority.sign())
    authority.sign("other")
    (authority.folder / "server.pem").write_bytes((authority.folder / "other.pem").read_bytes())
    server.wait_for("the renewed certificate cannot be used")

    assert ask(server, authority) == [16, 22]

    (authority.folder / "server.key").write_bytes((authority.folder / "other.key").read_bytes())
    server.wait_for("certificate renewed")
    assert ask(server, authority) == [16, 22]


def serial(server: Any) -> str:
    host, port = server.grpc.split(":")
    return ssl.get_server_certificate((host, int(port)))


@pytest.mark.parametrize("given", [["TLS_CERTIFICATE"], ["TLS_KEY"]])
def test_half_of_a_pair_is_told_before_anything_is_served(
    models: Any, serve: Any, authority: Authority, given: list[str]
) -> None:
    signed = authority.sign()
    server = serve(models.scores(), ready=False, **{name: signed[name] for name in given})

    assert server.exit_code() == 42
    assert "have to be set together" in server.events[-1]["cause"]


def test_a_certificate_that_is_none_is_told(models: Any, serve: Any, authority: Authority) -> None:
    signed = authority.sign()
    Path(signed["TLS_CERTIFICATE"]).write_text("none")
    server = serve(models.scores(), ready=False, **signed)

    assert server.exit_code() == 42
    assert "TRIMTAB_TLS_*" in server.events[-1]["cause"]
