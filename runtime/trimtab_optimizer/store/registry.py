"""OCI registries over HTTP, with the oras library for names, challenges and tokens.

Three things of oras 0.2.43 are replaced here, each for a reason: its retry sleeps up to two minutes on a wrong
password (we retry short, on the connection); its token stays after a challenge for another scope (we ask again at each
challenge); its uploads read the whole file into memory (we stream).
"""

import time
from collections.abc import Callable, Iterator
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
_LONG_TIMEOUT: Final = (120.0, 900.0)  # the first also of each write; a registry may hash or move a blob at its end
_PAUSES: Final = (0.0, 2.0, 8.0)  # seconds before an upload is tried again
_BYTES: Final = {"Content-Type": "application/octet-stream"}
_BROKEN_OFF: Final = (400, 404, 416)  # of an upload: its session is gone, or has other bytes
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
            return _found(client.look_for(digest), reference)

    def put_blob(self, reference: Reference, content: Content) -> str:
        """Stream a blob to the registry, which is told its digest at the end.

        Where that breaks off, or a registry wants it otherwise, the blob is read for its digest and sent with that, in
        one request. What a registry has by then, though its answer was lost, is not sent again.
        """
        reader = Reader(content)
        if self._is_ok(reference, lambda client: client.stream(reader)) and reader.is_read:
            return reader.digest()
        digest = content.digest()
        for pause in _PAUSES:
            time.sleep(pause)
            if self._is_ok(reference, lambda client: client.look_for(digest)):
                return digest
            if self._is_ok(reference, lambda client: client.send(content, digest)):
                return digest
        with self._talk(reference) as client:
            _check_upload(client.send(content, digest), reference)
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
        try:
            yield self._client(reference)
        except requests.exceptions.SSLError as error:
            mend = f"if {reference.host} speaks plain http, name it among the insecure registries"
            raise RegistryUnavailable(f"no trusted TLS to {reference.host} ({error}); {mend}") from error
        except requests.exceptions.RequestException as error:
            message = f"{reference.host} did not answer ({error}); check that the registry runs and can be reached"
            raise RegistryUnavailable(message) from error

    def _client(self, reference: Reference) -> "_Client":
        key = (reference.host, reference.repository)
        if key not in self._clients:
            fitting = [item for item in self._credentials if item.fits(*key)]
            self._clients[key] = _Client(*key, reference.host in self._insecure, fitting)
        return self._clients[key]

    def _is_ok(self, reference: Reference, ask: Callable[["_Client"], requests.Response]) -> bool:
        """Tell whether a request went well, if it was not merely denied. Raises Unauthorized."""
        try:
            answer = ask(self._client(reference))
        except requests.exceptions.RequestException:
            return False
        if answer.status_code in _DENIED:
            _check(answer, reference)
        return bool(answer.ok)


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
        self._uploads = requests.Session()  # no request that carries a blob is sent twice: it would add to the first
        for scheme in ("http://", "https://"):
            self.session.mount(scheme, HTTPAdapter(max_retries=retry))
            self._uploads.mount(scheme, HTTPAdapter(max_retries=0))

    def url(self, path: str) -> str:
        """Return the URL of a path that a container gives."""
        return f"{self.prefix}://{path}"

    def look_for(self, digest: str) -> requests.Response:
        """Ask for a blob, without its bytes."""
        return self.do_request(self.url(self.container.get_blob_url(digest)), "HEAD")

    def stream(self, reader: Reader) -> requests.Response:
        """Send a blob whose digest is known once it is sent. Who answers before all was read has not got it.

        In one PATCH without a range, as Docker's client does it: with one, it would be a chunk, which some registries
        take only up to a few MB, or not at all.
        """
        answer = self._post()
        if answer.ok:
            place = self._get_location(answer, self.container)
            answer = self.do_request(place, "PATCH", data=reader, headers=_BYTES)
        if answer.ok and reader.is_read:
            answer = self._put(answer, reader.digest())
        return answer

    def send(self, content: Content, digest: str) -> requests.Response:
        """Send a blob with its digest, in one request."""
        answer = self._post()
        return self._put(answer, digest, Reader(content)) if answer.ok else answer

    def _post(self) -> requests.Response:
        return self.do_request(self.url(self.container.upload_blob_url()), "POST")

    def _put(self, opened: requests.Response, digest: str, data: Reader | None = None) -> requests.Response:
        place = oras.utils.append_url_params(self._get_location(opened, self.container), {"digest": digest})
        return self.do_request(place, "PUT", data=data, headers=_BYTES if data else {"Content-Length": "0"})

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
        is_upload = isinstance(data, Reader)
        if isinstance(data, Reader):
            data.seek(0)
        sent = dict(headers or {}) | ({"Authorization": self._authorization} if self._authorization else {})
        session = self._uploads if is_upload else self.session
        timeout = _LONG_TIMEOUT if is_upload or "digest=" in url else _TIMEOUT
        answer: requests.Response = session.request(
            method, url, data=data, headers=sent, stream=stream, timeout=timeout
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


def _check_upload(answer: requests.Response, reference: Reference) -> None:
    if answer.status_code in _BROKEN_OFF:
        said = f"{answer.status_code} {answer.reason}: {answer.text[:200]}"
        raise RegistryUnavailable(f"uploads to {reference.host}/{reference.repository} break off ({said}); try again")
    _check(answer, reference)


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
