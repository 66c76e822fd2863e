"""Credentials from docker configs, as Kubernetes mounts them: several folders, and keys that may hold a path."""

import base64
import binascii
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trimtab_api.errors import Unauthorized

_FILES = ("config.json", ".dockerconfigjson")


@dataclass(frozen=True, slots=True)
class Credential:
    """`place` is `host` or `host/path`; `basic` is base64 of `user:password`."""

    place: str
    basic: str

    def fits(self, host: str, repository: str) -> bool:
        """Say whether this credential is meant for a repository."""
        return self.place == host or f"{host}/{repository}/".startswith(f"{self.place}/")


def read_credentials(folders: tuple[Path, ...]) -> tuple[Credential, ...]:
    """Read all credentials; the longest place comes first, then the order of the folders. Raises Unauthorized."""
    files = [folder / name for folder in folders for name in _FILES if (folder / name).is_file()]
    found = [credential for path in files for credential in _read(path)]
    return tuple(sorted(found, key=lambda item: -len(item.place)))


def _read(path: Path) -> list[Credential]:
    try:
        auths = json.loads(path.read_text()).get("auths") or {}
        return [Credential(_place(key), basic) for key, value in auths.items() if (basic := _basic(value))]
    except (ValueError, AttributeError, TypeError) as error:
        message = f"{path} is not a docker config; make the Secret with `kubectl create secret docker-registry`"
        raise Unauthorized(message) from error


def _place(key: str) -> str:
    place = key.removeprefix("https://").removeprefix("http://").rstrip("/")
    return place.removesuffix("/v1").removesuffix("/v2")


def _basic(value: dict[str, Any]) -> str | None:
    if value.get("auth"):
        return _checked(str(value["auth"]))
    if value.get("username") is None or value.get("password") is None:
        return None
    return base64.b64encode(f"{value['username']}:{value['password']}".encode()).decode()


def _checked(basic: str) -> str:
    try:
        base64.b64decode(basic, validate=True)
    except binascii.Error as error:
        raise ValueError("auth is not base64") from error
    return basic
