"""Certificates and kubeconfigs of a cluster, made with openssl. Kubeconfigs hold their certificates inline."""

import base64
import json
import subprocess
from pathlib import Path

_EC = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")  # ten keys in the time of one RSA key
_USERS = {
    "admin": "/O=system:masters/CN=admin",
    "kube-controller-manager": "/CN=system:kube-controller-manager",
    "kube-scheduler": "/CN=system:kube-scheduler",
    "kubelet": "/O=system:nodes/CN=system:node:node1",
    "kube-proxy": "/CN=system:kube-proxy",
    "coredns": "/CN=trimtab:dns",
}


def make_pki(etc: Path, node: str) -> None:
    """Write the authority, the API server's certificate and a kubeconfig for each component into `etc`."""
    # Of EC keys Kubernetes reads only this older form as a key for service accounts.
    _openssl("ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", etc / "sa.key")
    subject = ("-x509", *_EC, "-days", "365", "-subj", "/CN=trimtab-ca")
    _openssl("req", *subject, "-keyout", etc / "ca.key", "-out", etc / "ca.crt")
    names = "DNS:localhost,DNS:kubernetes,DNS:kubernetes.default,DNS:kubernetes.default.svc"
    _sign(etc, "kube-apiserver", "/CN=kube-apiserver", f"IP:{node},IP:127.0.0.1,IP:10.96.0.1,{names}")
    for name, user in _USERS.items():
        _sign(etc, name, user, f"DNS:{name},DNS:node1,IP:{node}")
        (etc / f"{name}.kubeconfig").write_text(_kubeconfig(etc, name, node))


def _sign(etc: Path, name: str, subject: str, alternatives: str) -> None:
    key, request, extra = etc / f"{name}.key", etc / f"{name}.csr", etc / f"{name}.ext"
    extra.write_text(f"subjectAltName={alternatives}\n")
    _openssl("req", *_EC, "-keyout", key, "-out", request, "-subj", subject)
    authority = ("-CA", etc / "ca.crt", "-CAkey", etc / "ca.key", "-CAcreateserial")
    _openssl("x509", "-req", "-in", request, *authority, "-out", etc / f"{name}.crt", "-days", "365", "-extfile", extra)
    request.unlink()
    extra.unlink()


def _kubeconfig(etc: Path, user: str, node: str) -> str:
    authority, certificate, key = (_inline(etc / file) for file in ("ca.crt", f"{user}.crt", f"{user}.key"))
    server = {"server": f"https://{node}:6443", "certificate-authority-data": authority}
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "trimtab", "cluster": server}],
        "users": [{"name": user, "user": {"client-certificate-data": certificate, "client-key-data": key}}],
        "contexts": [{"name": "trimtab", "context": {"cluster": "trimtab", "user": user}}],
        "current-context": "trimtab",
    }
    return json.dumps(document, indent=2)  # JSON is YAML


def _inline(file: Path) -> str:
    return base64.b64encode(file.read_bytes()).decode()


def _openssl(*arguments: str | Path) -> None:
    subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True)
