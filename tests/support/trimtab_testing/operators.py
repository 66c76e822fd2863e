"""What tests do to a running operator, and what the API server's audit log says that it did."""

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, BinaryIO

from target import Target
from trimtab_testing.pods import processes_of

_SELECTOR = "app.kubernetes.io/name=trimtab-operator"
_PROGRAM = "trimtab_operator"
_LEADING_SECONDS = 90
_WRITES = frozenset({"create", "update", "patch", "delete", "deletecollection"})


@dataclass(frozen=True, slots=True)
class Operator:
    """The operator of one namespace."""

    target: Target
    namespace: str

    def wait_until_leading(self) -> Callable[[], None]:
        """Wait until a living operator holds the Lease, and return what kills it.

        To kill is to end the process with SIGKILL and to remove its pod, as the kubelet would wait longer before each
        restart. On a cluster that somebody named the process cannot be reached, and removal without grace has to do.
        """
        deadline = time.monotonic() + _LEADING_SECONDS
        while time.monotonic() < deadline:
            names = [pod["metadata"]["name"] for pod in self.pods() if "deletionTimestamp" not in pod["metadata"]]
            leases = self.target.read("-n", self.namespace, "leases")["items"]
            if any(lease["spec"].get("holderIdentity") in names for lease in leases):
                return partial(self._kill, names, self.pids())
            time.sleep(0.5)
        raise AssertionError(f"no operator leads after {_LEADING_SECONDS} s")

    def _kill(self, names: list[str], pids: list[int]) -> None:
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        for name in names:
            self._kubectl("delete", "pod", name, "--grace-period=0", "--force", "--ignore-not-found")

    def pods(self) -> list[dict[str, Any]]:
        """Return the operator's pods."""
        found: list[dict[str, Any]] = self.target.read("-n", self.namespace, "pods", "-l", _SELECTOR)["items"]
        return found

    def pids(self) -> list[int]:
        """Return the operator's processes as this machine numbers them; none on a cluster that somebody named."""
        if self.target.own is None:
            return []
        return processes_of(self.pods(), _PROGRAM)

    def requests(self, since: int) -> Iterator[dict[str, Any]]:
        """Yield the operator's requests from an offset of the audit log on; one is logged at its start and its end."""
        assert self.target.own is not None
        user = f"system:serviceaccount:{self.namespace}:trimtab-operator"
        with (self.target.own.log / "audit.log").open("rb") as lines:
            for line in _whole_lines_from(lines, since):
                entry = json.loads(line)
                if entry.get("stage") == "ResponseComplete" and entry["user"]["username"] == user:
                    yield entry

    def audit_offset(self) -> int:
        """Return where the audit log ends now."""
        assert self.target.own is not None
        return (self.target.own.log / "audit.log").stat().st_size

    def writes_within(self, seconds: float) -> list[str]:
        """Wait, and return what the operator wrote meanwhile beside its Lease."""
        start = self.audit_offset()
        time.sleep(seconds)
        assert any("/leases/" in entry["requestURI"] for entry in self.requests(start)), "no operator is alive"
        return list(self.writes(start))

    def writes(self, since: int) -> Iterator[str]:
        """Yield what the operator wrote beside its Lease, from an offset of the audit log on."""
        for entry in self.requests(since):
            if entry["verb"] in _WRITES and "/leases/" not in entry["requestURI"]:
                yield f"{entry['verb']} {entry['requestURI']}"

    def _kubectl(self, *arguments: str) -> str:
        return self.target.kubectl("-n", self.namespace, *arguments)


def _whole_lines_from(lines: BinaryIO, offset: int) -> Iterator[bytes]:
    """Yield the lines that begin at or after an offset; a line still being written, at either end, is left out."""
    lines.seek(max(offset - 1, 0))
    if offset:
        lines.readline()
    for line in lines:
        if line.endswith(b"\n"):
            yield line
