"""Bring the operator and the digits example into a cluster: images, chart, model and data. Can be run again.

    python demo/install.py --name demo --namespace trimtab-demo

`kubectl` and `helm` are on the path, and KUBECONFIG and TRIMTAB_REGISTRY are set, by `python3 -m trimtab_cluster env`.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

_PACKAGES = {"model": "models/digits:v1", "data-train": "data/digits-train:v1", "data-test": "data/digits-test:v1"}
_OPERATOR_SECONDS = 180


def install(name: str, namespace: str) -> None:
    """Install everything into a namespace under the restricted Pod Security profile."""
    images = deliver_images(name)
    push_example(os.environ["TRIMTAB_REGISTRY"])
    create_namespace(namespace)
    install_chart(namespace, images)


def deliver_images(name: str) -> dict[str, str]:
    """Build what is not built, and return each image by digest."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "cluster")}
    command = ["python3", "-m", "trimtab_cluster", "images", "--name", name]
    listed = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True).stdout
    return dict(line.split() for line in listed.splitlines())


def push_example(registry: str) -> None:
    """Train the example where that was not done yet, and push model and data."""
    build = ROOT / "examples/digits/build"
    if not (build / "model/model.yaml").exists():
        print("training the digits example", flush=True)
        _run([sys.executable, str(ROOT / "examples/digits/train.py"), "--out", str(build)])
    for folder, place in _PACKAGES.items():
        push = [sys.executable, "-m", "trimtab_cli", "push", "--insecure", registry]
        _run([*push, str(build / folder), f"oci://{registry}/{place}"])


def create_namespace(namespace: str) -> None:
    """Create a namespace that admits restricted pods only."""
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    manifest = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace, "labels": labels}}
    _run(["kubectl", "apply", "-f", "-"], json.dumps(manifest))


def install_chart(namespace: str, images: dict[str, str]) -> None:
    """Install the chart, and wait until the operator is up."""
    values = {
        "images": {key: images[f"trimtab-{key}"] for key in ("operator", "runtime", "optimizer")},
        "artifacts": {"repository": f"registry.local:5000/trimtab/artifacts-{namespace}"},
        "insecureRegistries": ["registry.local:5000"],
    }
    print("helm install", flush=True)
    chart = ["helm", "upgrade", "--install", "trimtab", str(ROOT / "charts/trimtab"), "-n", namespace, "-f", "-"]
    _run(chart, json.dumps(values))
    deadline = time.monotonic() + _OPERATOR_SECONDS
    status = ["kubectl", "-n", namespace, "rollout", "status", "deploy/trimtab-operator", "--timeout=5s"]
    while subprocess.run(status, capture_output=True).returncode:
        if time.monotonic() > deadline:
            sys.exit(f"the operator did not come up; see: kubectl -n {namespace} describe pods")


def _run(command: list[str], text: str | None = None) -> None:
    done = subprocess.run(command, input=text, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(command[:4])} failed:\n{done.stdout}{done.stderr}")


def main() -> None:
    """Install."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--name", default="demo")
    parser.add_argument("--namespace", default="trimtab-demo")
    arguments = parser.parse_args()
    install(arguments.name, arguments.namespace)


if __name__ == "__main__":
    main()
