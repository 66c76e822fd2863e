"""Certificates and kubeconfigs of a cluster, made with openssl. Kubeconfigs hold their certificates inline."""

import base64
import subprocess
from pathlib import Path

_USERS = {
    "admin": "/O=system:masters/CN=admin",
    "controller-manager": "/CN=system:kube-controller-manager",
    "scheduler": "/CN=system:kube-scheduler",
    "kubelet": "/O=system:nodes/CN=system:node:node1",
    "proxy": "/CN=system:kube-proxy",
    "dns": "/CN=trimtab:dns",
}


def make_pki(etc: Path, node: str) -> None:
    """Write the authority, the server certificate and a kubeconfig for each component into `etc`."""
    _openssl("genrsa", "-out", etc / "sa.key", "2048")
    subject = ("-x509", "-newkey", "rsa:2048", "-nodes", "-days", "365", "-subj", "/CN=trimtab-ca")
    _openssl("req", *subject, "-keyout", etc / "ca.key", "-out", etc / "ca.crt")
    names = "DNS:localhost,DNS:kubernetes,DNS:kubernetes.default,DNS:kubernetes.default.svc"
    _sign(etc, "apiserver", "/CN=kube-apiserver", f"IP:{node},IP:127.0.0.1,IP:10.96.0.1,{names}")
    for name, user in _USERS.items():
        _sign(etc, name, user, f"DNS:{name},DNS:node1,IP:{node}")
        (etc / f"{name}.kubeconfig").write_text(_kubeconfig(etc, name, node))


def _sign(etc: Path, name: str, subject: str, alternatives: str) -> None:
    key, request, extra = etc / f"{name}.key", etc / f"{name}.csr", etc / f"{name}.ext"
    extra.write_text(f"subjectAltName={alternatives}\n")
    _openssl("req", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", request, "-subj", subject)
    authority = ("-CA", etc / "ca.crt", "-CAkey", etc / "ca.key", "-CAcreateserial")
    _openssl("x509", "-req", "-in", request, *authority, "-out", etc / f"{name}.crt", "-days", "365", "-extfile", extra)


def _kubeconfig(etc: Path, name: str, node: str) -> str:
    authority, certificate, key = (_inline(etc / file) for file in ("ca.crt", f"{name}.crt", f"{name}.key"))
    return f"""apiVersion: v1
kind: Config
clusters: [{{name: trimtab, cluster: {{server: "https://{node}:6443", certificate-authority-data: {authority}}}}}]
users: [{{name: {name}, user: {{client-certificate-data: {certificate}, client-key-data: {key}}}}}]
contexts: [{{name: trimtab, context: {{cluster: trimtab, user: {name}}}}}]
current-context: trimtab
"""


def _inline(file: Path) -> str:
    return base64.b64encode(file.read_bytes()).decode()


def _openssl(*arguments: str | Path) -> None:
    subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True)
