"""The main job, shown: apply version 1, edit to version 2, apply a bad one, roll back by an edit. Prints what happened.

    python demo/road.py --namespace trimtab-demo

Needs kubectl on the path, KUBECONFIG, and a cluster with the chart installed (`make demo` sees to all three).
"""

import argparse
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

EXAMPLE = Path(__file__).resolve().parents[1] / "examples/digits"
_LIMIT_SECONDS = 300
_POD = "road-client"


@dataclass(frozen=True, slots=True)
class Walked:
    """What happened on the way: who served first, second and last, and what callers saw."""

    first: str
    second: str
    last: str
    rejected: str
    rollback_seconds: float
    jobs_of_rollback: int
    answered: int
    failed: int


class Road:
    """One walk through the example in one namespace. `at_canary` is called while the canary is under way."""

    def __init__(self, namespace: str, at_canary: Callable[[], None] | None = None) -> None:
        self._namespace = namespace
        self._at_canary = at_canary
        self._started = time.monotonic()

    def walk(self) -> Walked:
        """Walk the whole road; raises RoadBlocked with the status where it does not go on."""
        self.say("version 1: the model as ONNX, held against an accuracy of 0.95")
        first = self.apply("v1.yaml", "Healthy")
        with Asking(self._namespace) as asking:
            self.say(f"a prediction: {asking.ask()}")
            asking.start()
            self.say("version 2: int8; a canary with an analysis takes it in")
            second = self.apply("v2.yaml", "Healthy")
            self.say("version 3: a gate that cannot be met")
            self.apply("v3-bad.yaml", "Degraded")
            rejected = str(self._status().get("rejectedRevision", ""))
            self.say("back to version 1 by applying its file again")
            edited, jobs = time.monotonic(), self._jobs()
            back = self.apply("v1.yaml", "Healthy")
            seconds = time.monotonic() - edited
            self.say(f"{back} serves again {seconds:.1f} s after the edit")
            started = len(self._jobs() - jobs)
        if back != first or second == first:
            raise RoadBlocked(f"the wrong revision serves: {back}, not {first}")
        self.say(
            f"asked all along: {asking.answered} answers by revision {asking.by_revision}, {asking.failed} failures"
        )

        return Walked(first, second, back, rejected, seconds, started, asking.answered, asking.failed)

    def apply(self, file: str, phase: str) -> str:
        """Apply a file and follow the status until it is settled in a phase; return the stable revision."""
        generation = json.loads(self._kubectl("apply", "-o", "json", "-f", str(EXAMPLE / file)))["metadata"][
            "generation"
        ]
        deadline, shown = time.monotonic() + _LIMIT_SECONDS, ""
        while time.monotonic() < deadline:
            status = self._status()
            if status.get("candidateRevision") and status.get("stableRevision") and self._at_canary:
                self._at_canary()
                self._at_canary = None
            text = _describe(status)
            if text != shown:
                self.say(f"    {text}")
                shown = text
            if status.get("observedGeneration") == generation and status.get("phase") == phase:
                return str(status.get("stableRevision"))
            time.sleep(0.3)
        raise RoadBlocked(f"{file} is not {phase} after {_LIMIT_SECONDS} s: {shown}")

    def say(self, text: str) -> None:
        """Print a line with the time since the start."""
        print(f"[{time.monotonic() - self._started:6.1f}s] {text}", flush=True)

    def _status(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self._kubectl("get", "mdeploy", "digits", "-o", "json")).get("status", {})
        return found

    def _jobs(self) -> set[str]:
        return set(self._kubectl("get", "jobs", "-o", "name").split())

    def _kubectl(self, *arguments: str) -> str:
        command = ["kubectl", "-n", self._namespace, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout


class RoadBlocked(RuntimeError):
    """The example did not get where it should; the text says where it stands."""


class Asking:
    """Asks the Service for predictions from a pod of its own, on a new connection each time."""

    def __init__(self, namespace: str) -> None:
        self._base = ["kubectl", "-n", namespace]
        self._kubectl = [*self._base, "exec", "-i", _POD, "--"]
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._ask_on)
        self._process: subprocess.Popen[str] | None = None
        self.answered = self.failed = 0
        self.by_revision: dict[str, int] = {}

    def __enter__(self) -> "Asking":
        image = ["get", "deploy", "trimtab-operator", "-o", "jsonpath={.spec.template.spec.containers[0].image}"]
        self._run(["apply", "-f", "-"], json.dumps(_client_pod(self._run(image))))
        self._run(["wait", "--for=condition=Ready", f"pod/{_POD}", "--timeout=60s"])
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        if self._process and self._process.stdin:
            self._process.stdin.close()
        if self._thread.is_alive():
            self._thread.join(30)
        self._run(["delete", "pod", _POD, "--grace-period=1", "--wait=false"])

    def ask(self) -> str:
        """Ask once, as a person would."""
        done = subprocess.run([*self._kubectl, *_client("once")], capture_output=True, text=True)
        if done.returncode:
            raise RoadBlocked(f"the prediction failed: {done.stderr[-1000:]}")
        return done.stdout.strip()[:160]

    def start(self) -> None:
        """Go on asking in the background until the end of the block."""
        command = [*self._kubectl, *_client("on")]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._thread.start()

    def _run(self, arguments: list[str], text: str | None = None) -> str:
        done = subprocess.run([*self._base, *arguments], input=text, capture_output=True, text=True)
        if done.returncode:
            raise RoadBlocked(f"kubectl {' '.join(arguments[:3])}: {done.stderr}")
        return done.stdout

    def _ask_on(self) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("failed"):
                self.failed += 1
                print(line, file=sys.stderr)
            elif line.strip():
                self.answered += 1
                revision = line.split()[0]
                self.by_revision[revision] = self.by_revision.get(revision, 0) + 1


def _client_pod(image: str) -> dict[str, Any]:
    """Return a pod that waits to be used, with an image that the node has anyway."""
    security = {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "runAsNonRoot": True,
        "capabilities": {"drop": ["ALL"]},
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    wait = ["/opt/trimtab/venv/bin/python", "-c", "import time; time.sleep(3600)"]
    container = {"name": "client", "image": image, "command": wait, "securityContext": security}
    spec = {"automountServiceAccountToken": False, "containers": [container], "restartPolicy": "Never"}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": _POD}, "spec": spec}


def _client(mode: str) -> list[str]:
    """Return the command of a small client that runs where the Service's name resolves.

    It ends when its standard input does, and after ten minutes in any case.
    """
    return ["/opt/trimtab/venv/bin/python", "-c", _CLIENT, mode]


_CLIENT = """
import json, select, sys, time, urllib.request
url = "http://digits:8080/v2/models/digits/infer"
image = [[0.5] * 64]
body = {"inputs": [{"name": "pixels", "shape": [1, 64], "datatype": "FP32", "data": image}]}
deadline = time.monotonic() + 600
def ask(url, body):
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Connection": "close"})
    with urllib.request.urlopen(request, timeout=10) as answer:
        return json.load(answer)
if sys.argv[1] == "once":
    for left in range(20, -1, -1):
        try:
            print(json.dumps(ask("http://digits:8080/predict", {"instances": image})))
            sys.exit()
        except OSError:
            # A Service is ready a moment before every node's proxy knows it.
            if not left:
                raise
            time.sleep(0.25)
while time.monotonic() < deadline:
    try:
        print(ask(url, body)["model_version"], flush=True)
    except Exception as error:
        print("failed", repr(error), flush=True)
    if select.select([sys.stdin], [], [], 0.02)[0] and not sys.stdin.read(1):
        break
"""


def _describe(status: dict[str, Any]) -> str:
    traffic = " ".join(f"{item['revision']} {item['percent']}%" for item in status.get("traffic", []))
    return f"{status.get('phase', 'Pending')}: {status.get('message', '')}" + (f" [{traffic}]" if traffic else "")


def main() -> None:
    """Walk the road."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--namespace", default="trimtab-demo")
    try:
        Road(parser.parse_args().namespace).walk()
    except RoadBlocked as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
