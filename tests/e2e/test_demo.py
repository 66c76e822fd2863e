"""The demo on a cluster that somebody named: it walks its road there, and leaves when it is told to."""

import os
import subprocess
import sys

from target import Target
from trimtab_cluster.places import REPOSITORY

_NAMESPACE = "named-demo"


def test_the_demo_runs_on_a_cluster_that_is_named_and_goes_without_a_trace(target: Target) -> None:
    shown = demo(target)
    assert " 0 failures" in shown
    assert "is held back: accuracy is" in shown
    assert target.kubectl("get", "namespace", _NAMESPACE, "-o", "name").strip() == f"namespace/{_NAMESPACE}"

    demo(target, "--down")
    assert target.kubectl("get", "namespace", _NAMESPACE, "--ignore-not-found") == ""


def demo(target: Target, *arguments: str) -> str:
    """Run the demo as a person who names a cluster does."""
    named = {
        "TRIMTAB_KUBECONFIG": str(target.kubeconfig),
        "TRIMTAB_CONTEXT": target.context,
        "TRIMTAB_REGISTRY": target.registry.address,
        "TRIMTAB_REGISTRY_KNOWN_AS": target.registry.known_as,
        "TRIMTAB_REGISTRY_INSECURE": "1" if target.registry.insecure else "",
    }
    command = [sys.executable, str(REPOSITORY / "demo"), "--namespace", _NAMESPACE, *arguments]
    environment = {**os.environ, **named, "PYTHONPATH": str(REPOSITORY / "cluster")}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
