"""TLS on both ports, with certificates of callers where they are asked for; a renewed certificate needs no restart."""

import ssl
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from trimtab_api.errors import InvalidSpec
from trimtab_runtime.logs import complain, say

_PROTOCOLS: Final = {"rest": ["http/1.1"], "grpc": ["h2"]}


@dataclass
class Certificates:
    """The server's certificate and key, and the authorities of callers. Raises InvalidSpec where they are of no use."""

    certificate: Path
    key: Path
    client_authorities: Path | None = None
    rest: ssl.SSLContext = field(init=False)
    grpc: ssl.SSLContext = field(init=False)
    _seen: tuple[int, ...] = field(init=False)

    def __post_init__(self) -> None:
        self._seen = self._times()
        self.rest, self.grpc = self._context("rest"), self._context("grpc")

    def renew(self) -> None:
        """Take the files again if they have changed; connections that are there keep what they began with.

        Files that are of no use, such as a certificate whose key is not there yet, are looked at again later; they are
        tried on a context that nobody uses, as one that they do not fit loses the key that it had.
        """
        try:
            times = self._times()
            if times == self._seen:
                return
            self._context("rest")
            for context in (self.rest, self.grpc):
                self._load(context)
        except InvalidSpec as error:
            complain("the renewed certificate cannot be used", error)
            return
        self._seen = times
        say("certificate renewed")

    def _times(self) -> tuple[int, ...]:
        paths = [path for path in (self.certificate, self.key, self.client_authorities) if path is not None]
        try:
            return tuple(path.stat().st_mtime_ns for path in paths)
        except OSError as error:
            raise InvalidSpec(f"a file of TRIMTAB_TLS_* cannot be read: {error}") from error

    def _context(self, port: str) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(_PROTOCOLS[port])
        self._load(context)
        return context

    def _load(self, context: ssl.SSLContext) -> None:
        try:
            context.load_cert_chain(self.certificate, self.key)
            if self.client_authorities is not None:
                context.load_verify_locations(self.client_authorities)
                context.verify_mode = ssl.CERT_REQUIRED
        except OSError as error:  # SSLError is one
            raise InvalidSpec(f"the files of TRIMTAB_TLS_* cannot be used: {error}") from error
