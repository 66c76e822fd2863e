"""What tests do to a running operator, and what the API server's audit log says that it did."""

import json
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from target import Target

_SELECTOR = "app.kubernetes.io/name=trimtab-operator"
_PROGRAM = b"trimtab_operator"
_WRITES = frozenset({"create", "update", "patch", "delete", "deletecollection"})


@dataclass(frozen=True, slots=True)
class Operator:
    """The operator of one namespace."""

    target: Target
    namespace: str

    def kill(self) -> None:
        """End the operator's process with SIGKILL and remove its pod; a new one comes at once.

        Without the removal the kubelet would wait longer before each restart. On a cluster that somebody named the
        process cannot be reached, and the removal without grace alone has to do.
        """
        pods = self.pods()
        for pid in self.pids():
            os.kill(pid, signal.SIGKILL)
        for pod in pods:
            name = pod["metadata"]["name"]
            self._kubectl("delete", "pod", name, "--grace-period=0", "--force", "--ignore-not-found")

    def wait_until_up(self) -> None:
        """Wait until an operator is ready."""
        self._kubectl("rollout", "status", "deploy/trimtab-operator", "--timeout=90s")

    def pods(self) -> list[dict[str, Any]]:
        """Return the operator's pods."""
        found: list[dict[str, Any]] = self.target.read("-n", self.namespace, "pods", "-l", _SELECTOR)["items"]
        return found

    def pids(self) -> list[int]:
        """Return the operator's processes as this machine numbers them; none on a cluster that somebody named."""
        if self.target.own is None:
            return []
        uids = [pod["metadata"]["uid"] for pod in self.pods()]
        return [pid for pid, text in _processes() if any(uid in text or uid.replace("-", "_") in text for uid in uids)]

    def requests(self, since: int) -> Iterator[dict[str, Any]]:
        """Yield the operator's entries of the audit log from an offset on."""
        assert self.target.own is not None
        user = f"system:serviceaccount:{self.namespace}:trimtab-operator"
        with (self.target.own.log / "audit.log").open("rb") as lines:
            lines.seek(since)
            for line in lines:
                if line.endswith(b"\n") and (entry := json.loads(line))["user"]["username"] == user:
                    yield entry

    def audit_offset(self) -> int:
        """Return where the audit log ends now."""
        assert self.target.own is not None
        return (self.target.own.log / "audit.log").stat().st_size

    def writes_within(self, seconds: float) -> list[str]:
        """Wait, and return what the operator wrote meanwhile beside its Lease."""
        start = self.audit_offset()
        time.sleep(seconds)
        return [
            f"{entry['verb']} {entry['requestURI']}"
            for entry in self.requests(start)
            if entry["verb"] in _WRITES and "/leases/" not in entry["requestURI"]
        ]

    def _kubectl(self, *arguments: str) -> str:
        return self.target.kubectl("-n", self.namespace, *arguments)


def _processes() -> Iterator[tuple[int, str]]:
    """Yield every operator process with its cgroups, which name its pod."""
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if _PROGRAM in (entry / "cmdline").read_bytes():
                yield int(entry.name), (entry / "cgroup").read_text()
        except OSError:  # it ended in between
            continue
