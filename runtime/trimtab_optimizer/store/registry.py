"""OCI registries over HTTP, with the oras library for names, challenges and tokens.

Three things of oras 0.2.43 are replaced here, each for a reason: its retry sleeps up to two minutes on a wrong
password (we retry short, on the connection); its token stays after a challenge for another scope (we ask again at each
challenge); its uploads read the whole file into memory (we stream).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import oras.auth.utils
import oras.utils
import requests
from oras.auth.token import TokenAuth
from oras.container import Container
from oras.provider import Registry
from requests.adapters import HTTPAdapter
from urllib3.util.retry import Retry

from trimtab_api.errors import InvalidPackage, RegistryUnavailable, Unauthorized
from trimtab_optimizer.store.content import CHUNK, Content, Reader, write_hashed
from trimtab_optimizer.store.credentials import Credential, read_credentials
from trimtab_optimizer.store.image import INDEX_TYPE, MANIFEST_TYPE, digest_bytes
from trimtab_optimizer.store.reference import Reference

_DOCKER = "application/vnd.docker.distribution.manifest"
_ACCEPTED: Final = ", ".join((MANIFEST_TYPE, INDEX_TYPE, f"{_DOCKER}.v2+json", f"{_DOCKER}.list.v2+json"))
_DENIED: Final = (401, 403)
_TOO_MANY: Final = 429
_SERVER_ERROR: Final = 500
_TIMEOUT: Final = (10.0, 120.0)  # connect, read
_UPLOADS: Final = 3
_BROKEN_OFF: Final = (404, 416, 429, 500, 502, 503, 504)
_LARGEST_MANIFEST: Final = 4 << 20


class RegistryTransport:
    """Implements images.Transport on the OCI distribution spec 1.1."""

    def __init__(self, insecure: tuple[str, ...], docker_configs: tuple[Path, ...]) -> None:
        self._insecure = insecure
        self._credentials = read_credentials(docker_configs)
        self._clients: dict[tuple[str, str], _Client] = {}

    def get_manifest(self, reference: Reference) -> bytes | None:
        """Return the manifest that a reference names."""
        with self._talk(reference) as client:
            url = client.url(client.container.manifest_url(reference.name))
            answer = client.do_request(url, headers={"Accept": _ACCEPTED}, stream=True)
            if not _found(answer, reference):
                return None
            return _read_bounded(answer, reference)

    def get_blob(self, reference: Reference, digest: str, target: Path, size: int) -> str | None:
        """Stream a blob to a file; more bytes than promised are not read."""
        with self._talk(reference) as client, target.open("wb") as output:
            answer = client.do_request(client.url(client.container.get_blob_url(digest)), stream=True)
            if not _found(answer, reference):
                return None
            return write_hashed(answer.iter_content(CHUNK), output, size)

    def has_blob(self, reference: Reference, digest: str) -> bool:
        """Tell whether the registry has a blob."""
        with self._talk(reference) as client:
            return _found(client.do_request(client.url(client.container.get_blob_url(digest)), "HEAD"), reference)

    def put_blob(self, reference: Reference, content: Content) -> str:
        """Stream a blob to the registry, which is told its digest at the end.

        An upload that broke off cannot be gone on with, as its bytes are not kept: it begins anew, a few times.
        """
        for attempt in range(_UPLOADS):
            with self._talk(reference) as client:
                answer, digest = client.upload(content)
                if answer.ok or attempt == _UPLOADS - 1 or answer.status_code not in _BROKEN_OFF:
                    break
        _check(answer, reference)
        return digest

    def put_manifest(self, reference: Reference, manifest: bytes, tags: tuple[str, ...]) -> None:
        """Store a manifest under tags, or under its digest alone."""
        with self._talk(reference) as client:
            for name in tags or (digest_bytes(manifest),):
                url = client.url(client.container.manifest_url(name))
                _check(client.do_request(url, "PUT", data=manifest, headers={"Content-Type": MANIFEST_TYPE}), reference)

    @contextmanager
    def _talk(self, reference: Reference) -> Iterator["_Client"]:
        """Give the client of a repository, and turn failures of the connection into RegistryUnavailable."""
        key = (reference.host, reference.repository)
        if key not in self._clients:
            fitting = [item for item in self._credentials if item.fits(*key)]
            self._clients[key] = _Client(*key, reference.host in self._insecure, fitting)
        try:
            yield self._clients[key]
        except requests.exceptions.SSLError as error:
            mend = f"if {reference.host} speaks plain http, name it among the insecure registries"
            raise RegistryUnavailable(f"no trusted TLS to {reference.host} ({error}); {mend}") from error
        except requests.exceptions.RequestException as error:
            message = f"{reference.host} did not answer ({error}); check that the registry runs and can be reached"
            raise RegistryUnavailable(message) from error


class _Client(Registry):  # type: ignore[misc]
    """One repository: keeps the authorization that worked, so that each credential is tried once."""

    def __init__(self, host: str, repository: str, insecure: bool, credentials: list[Credential]) -> None:
        super().__init__(hostname=host, insecure=insecure)
        self.container = Container(f"{host}/{repository}")
        self._credentials = credentials
        self._authorization: str | None = None
        retry = Retry(total=3, backoff_factor=0.3, status_forcelist=(429, 502, 503, 504), raise_on_status=False)
        retry.allowed_methods = None  # registries are content-addressed: every request may be sent twice
        retry.respect_retry_after_header = False  # the Job's own retries wait longer than we should here
        for scheme in ("http://", "https://"):
            self.session.mount(scheme, HTTPAdapter(max_retries=retry))

    def url(self, path: str) -> str:
        """Return the URL of a path that a container gives."""
        return f"{self.prefix}://{path}"

    def upload(self, content: Content) -> tuple[requests.Response, str]:
        """Send a blob, and return the last answer with the digest of what was sent."""
        reader = Reader(content)
        answer = self.do_request(self.url(self.container.upload_blob_url()), "POST")
        if answer.ok:
            headers = {"Content-Type": "application/octet-stream", "Content-Range": f"0-{len(reader) - 1}"}
            place = self._get_location(answer, self.container)
            answer = self.do_request(place, "PATCH", data=reader, headers=headers)
        if answer.ok:
            place = oras.utils.append_url_params(
                self._get_location(answer, self.container), {"digest": reader.digest()}
            )
            answer = self.do_request(place, "PUT", headers={"Content-Length": "0"})
        return answer, reader.digest()

    def do_request(
        self,
        url: str,
        method: str = "GET",
        data: bytes | Reader | None = None,
        headers: dict[str, str] | None = None,
        json: dict[str, Any] | None = None,
        stream: bool = False,
    ) -> requests.Response:
        """Send a request; where it is denied, answer the challenge with each credential in turn."""
        answer = self._send(url, method, data, headers, stream)
        if answer.status_code not in _DENIED:
            return answer
        for authorization in self._answers(answer.headers.get("Www-Authenticate", "")):
            self._authorization = authorization
            answer = self._send(url, method, data, headers, stream)
            if answer.status_code not in _DENIED:
                return answer
        return answer

    def _send(
        self, url: str, method: str, data: bytes | Reader | None, headers: dict[str, str] | None, stream: bool
    ) -> requests.Response:
        if data is not None and not isinstance(data, bytes):
            data.seek(0)
        sent = dict(headers or {}) | ({"Authorization": self._authorization} if self._authorization else {})
        answer: requests.Response = self.session.request(
            method, url, data=data, headers=sent, stream=stream, timeout=_TIMEOUT
        )
        return answer

    def _answers(self, challenge: str) -> Iterator[str]:
        basics = [item.basic for item in self._credentials]
        if challenge.lower().startswith("basic"):
            yield from (f"Basic {basic}" for basic in basics)
        elif challenge.lower().startswith("bearer"):
            yield from (f"Bearer {token}" for basic in (*basics, None) if (token := self._token(challenge, basic)))

    def _token(self, challenge: str, basic: str | None) -> str | None:
        auth = TokenAuth()
        auth.session, auth._tls_verify, auth.prefix = self.session, True, self.prefix
        if basic:
            auth._basic_auth = basic
        token = auth.request_token(oras.auth.utils.parse_auth_header(challenge))
        return str(token) if token else None


def _found(answer: requests.Response, reference: Reference) -> bool:
    """Say whether there is content. Raises for everything that is neither content nor absence."""
    if answer.status_code == requests.codes.not_found:
        return False
    _check(answer, reference)
    return True


def _check(answer: requests.Response, reference: Reference) -> None:
    if answer.ok:
        return
    where = f"{reference.host}/{reference.repository}"
    said = f"{answer.status_code} {answer.reason}"
    if answer.status_code in _DENIED:
        raise Unauthorized(
            f"{where} refused access ({said}); name a Secret of type kubernetes.io/dockerconfigjson with access to it, "
            "for models and data in spec.model.secretRef, for artifacts in artifacts.secretName of the chart"
        )
    if answer.status_code == _TOO_MANY or answer.status_code >= _SERVER_ERROR:
        raise RegistryUnavailable(f"{where} failed ({said}); check the registry")
    raise InvalidPackage(f"{where} refused the request ({said}: {answer.text[:200]}); check the name and its limits")


def _read_bounded(answer: requests.Response, reference: Reference) -> bytes:
    content = b""
    for chunk in answer.iter_content(CHUNK):
        content += chunk
        if len(content) > _LARGEST_MANIFEST:
            raise InvalidPackage(f"the manifest of {reference} is larger than {_LARGEST_MANIFEST} bytes; push it again")
    return content
