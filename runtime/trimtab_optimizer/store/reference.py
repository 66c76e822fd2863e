"""Names of images: `oci://host/repository[:tag][@digest]`."""

import re
from dataclasses import dataclass, replace

from trimtab_api.errors import InvalidSpec

_SCHEME = "oci://"
_PATTERN = re.compile(
    r"(?P<host>[A-Za-z0-9.\-]+(:[0-9]+)?)"
    r"/(?P<repository>[a-z0-9]+([._/-]+[a-z0-9]+)*)"
    r"(:(?P<tag>[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}))?"
    r"(@(?P<digest>sha256:[0-9a-f]{64}))?"
)


@dataclass(frozen=True, slots=True)
class Reference:
    """One image: the digest counts where there is one, else the tag."""

    host: str
    repository: str
    tag: str = "latest"
    digest: str | None = None

    @classmethod
    def parse(cls, uri: str) -> "Reference":
        """Read a URI. Raises InvalidSpec for other schemes and malformed names."""
        if not uri.startswith(_SCHEME):
            raise InvalidSpec(f"`{uri}` is not an oci:// URI; push the folder to a registry and name it as oci://")
        found = _PATTERN.fullmatch(uri.removeprefix(_SCHEME))
        if found is None:
            raise InvalidSpec(f"`{uri}` is not of the form oci://host[:port]/repository[:tag][@sha256:...]")
        return cls(found["host"], found["repository"], found["tag"] or "latest", found["digest"])

    @property
    def name(self) -> str:
        """Return what a registry is asked for: the digest, else the tag."""
        return self.digest or self.tag

    def at(self, digest: str) -> "Reference":
        """Return the same repository at a digest."""
        return replace(self, digest=digest)

    def __str__(self) -> str:
        end = f"@{self.digest}" if self.digest else f":{self.tag}"
        return f"{_SCHEME}{self.host}/{self.repository}{end}"


def repository_uri(repository: str, tag: str | None = None, digest: str | None = None) -> str:
    """Return the URI of an image in a repository such as `registry.local:5000/trimtab/default`."""
    return _SCHEME + repository.rstrip("/") + (f":{tag}" if tag else "") + (f"@{digest}" if digest else "")
