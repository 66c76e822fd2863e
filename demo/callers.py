"""Callers of a Service: a pod that asks all the time, and what it was answered."""

import json
import subprocess
import threading
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final

from target import CommandFailed, Target

WAYS: Final = ("rest-new", "rest-kept", "grpc-new", "grpc-kept")

_PYTHON: Final = "/opt/trimtab/venv/bin/python"
_LONGEST_SECONDS: Final = 1200
_SCRIPT: Final = (Path(__file__).parent / "caller.py").read_text()
_ONCE: Final = """
import json, sys, time, urllib.request
request = urllib.request.Request(sys.argv[1], sys.argv[2].encode())
for left in range(40, -1, -1):
    try:
        print(urllib.request.urlopen(request, timeout=10).read().decode())
        break
    except OSError:
        # A Service is ready a moment before every node's proxy knows it.
        if not left:
            raise
        time.sleep(0.25)
"""


@dataclass(frozen=True, slots=True)
class Answer:
    """One request. Times are of the pod's clock, in seconds; `revision` is empty where it failed."""

    sent: float
    ended: float
    way: str
    revision: str
    error: str = ""


class Callers:
    """Asks a digits-like model from inside the cluster while the block lasts; every request is sent once."""

    def __init__(
        self, target: Target, namespace: str, ways: tuple[str, ...] = WAYS, pause: float = 0.02, service: str = "digits"
    ) -> None:
        self._target = target
        self._base = [*target.kubectl_command(), "-n", namespace]
        self._namespace = namespace
        self._service = service
        self._ways = ways
        self._pod = f"callers-{uuid.uuid4().hex[:6]}"
        self._command = [service, service, "pixels", "64", str(_LONGEST_SECONDS), str(pause), *ways]
        self._process: subprocess.Popen[str] | None = None
        self._thread = threading.Thread(target=self._read, daemon=True)
        self.answers: list[Answer] = []

    def __enter__(self) -> "Callers":
        operator = self._target.read("-n", self._namespace, "deploy", "trimtab-operator")
        environment = operator["spec"]["template"]["spec"]["containers"][0]["env"]
        image = next(item["value"] for item in environment if item["name"] == "TRIMTAB_RUNTIME_IMAGE")
        self._target.kubectl(
            "-n", self._namespace, "apply", "-f", "-", given=json.dumps(_pod_manifest(self._pod, image))
        )
        self._target.kubectl(
            "-n", self._namespace, "wait", "--for=condition=Ready", f"pod/{self._pod}", "--timeout=90s"
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process and self._process.stdin:
            self._process.stdin.close()
            self._thread.join(30)
            self._process.kill()  # by then it has ended, unless it hangs
            self._process.wait()
        self._target.kubectl("-n", self._namespace, "delete", "pod", self._pod, "--grace-period=1", "--wait=false")

    def ask(self, instances: Sequence[Sequence[float]] = ((0.5,) * 64,)) -> str:
        """Ask /predict once, as a person would."""
        url, body = f"http://{self._service}:8080/predict", json.dumps({"instances": instances})
        return self._target.kubectl(
            "-n", self._namespace, "exec", self._pod, "--", _PYTHON, "-c", _ONCE, url, body
        ).strip()

    def start(self) -> None:
        """Go on asking in the background until the end of the block."""
        command = [*self._base, "exec", "-i", self._pod, "--", _PYTHON, "-c", _SCRIPT, *self._command]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._thread.start()
        self.wait_for(1)

    def still_asking(self) -> None:
        """Hold that every way is asked until now: no failure means little where nobody asks."""
        before = len(self.answers)
        deadline = time.monotonic() + 60
        while {item.way for item in self.answers[before:]} != set(self._ways):
            if time.monotonic() > deadline:
                raise CommandFailed(f"nobody asks any more by all of {', '.join(self._ways)}")
            time.sleep(0.1)

    def wait_for(self, count: int, seconds: float = 300) -> None:
        """Wait until so many requests were answered. Raises CommandFailed where that takes too long."""
        deadline = time.monotonic() + seconds
        while self.answered < count:
            if time.monotonic() > deadline:
                raise CommandFailed(f"only {self.answered} of {count} requests were answered within {seconds:.0f} s")
            time.sleep(0.1)

    @property
    def answered(self) -> int:
        return sum(not item.error for item in self.answers)

    @property
    def failures(self) -> list[Answer]:
        return [item for item in self.answers if item.error]

    @property
    def by_revision(self) -> dict[str, int]:
        found: dict[str, int] = {}
        for item in self.answers:
            if not item.error:
                found[item.revision] = found.get(item.revision, 0) + 1
        return found

    def _read(self) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        for line in self._process.stdout:
            sent, ended, way, text = line.rstrip("\n").split(" ", 3)
            failed = text.startswith("! ")
            self.answers.append(
                Answer(float(sent), float(ended), way, "" if failed else text, text[2:] if failed else "")
            )


def _pod_manifest(name: str, image: str) -> dict[str, Any]:
    """Return a pod that waits to be used, with an image that the node has anyway."""
    security = {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "runAsNonRoot": True,
        "capabilities": {"drop": ["ALL"]},
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    wait = [_PYTHON, "-c", f"import time; time.sleep({_LONGEST_SECONDS})"]
    container = {"name": "callers", "image": image, "command": wait, "securityContext": security}
    spec = {"automountServiceAccountToken": False, "containers": [container], "restartPolicy": "Never"}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}
