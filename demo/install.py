"""Bring the operator and an example into a cluster: images, chart, model and data. Can be run again."""

import json
import subprocess
import sys
from pathlib import Path

from target import CommandFailed, Target

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = ROOT / "examples"
NAME_IN_EXAMPLES = "registry.local:5000"  # what the examples call the registry

_OPERATOR_TIMEOUT = "180s"


def install(target: Target, namespace: str, insecure: tuple[str, ...] = (), tensorflow: bool = False) -> None:
    """Install everything into a namespace under the restricted Pod Security profile. Raises CommandFailed.

    `insecure` names registries, as host:port, that the operator is to reach over plain HTTP besides the target's own.
    With `tensorflow` the image that makes LiteRT models comes along.
    """
    images = target.deliver_images(tensorflow)
    push_example(target, "digits")
    create_namespace(target, namespace)
    install_chart(target, namespace, dict(images), insecure)


def uninstall(target: Target, namespace: str) -> None:
    """Remove what install() brought; the CRDs stay, as Helm leaves them, since others may use them."""
    target.helm("uninstall", "trimtab", "-n", namespace, "--ignore-not-found")
    target.kubectl("delete", "namespace", namespace, "--ignore-not-found", "--timeout=120s")


def push_example(target: Target, name: str) -> None:
    """Train an example where that was not done yet, and push its model and data."""
    build = trained(name)
    for folder, place in packages_of(name).items():
        if (build / folder).exists():
            push(target, build / folder, place)


def push(target: Target, folder: Path, place: str) -> str:
    """Push a model or data folder with `trimtab push`, and return its URI as the cluster names it."""
    insecure = ["--insecure", target.registry.address.partition("/")[0]] if target.registry.insecure else []
    command = [sys.executable, "-m", "trimtab_cli", "push", *insecure, str(folder)]
    _run([*command, f"oci://{target.registry.address}/{place}"])
    return f"oci://{target.registry.known_as}/{place}"


def packages_of(example: str) -> dict[str, str]:
    """Return where each folder that an example builds belongs in a registry."""
    return {
        "model": f"models/{example}:v1",
        "data-train": f"data/{example}-train:v1",
        "data-test": f"data/{example}-test:v1",
    }


def trained(example: str) -> Path:
    """Return the folder of a trained example, after training it where that was not done yet."""
    build = EXAMPLES / example / "build"
    if not (build / "data-test").exists():  # what is written last
        print(f"training the {example} example", flush=True)
        _run([sys.executable, str(EXAMPLES / example / "train.py"), "--out", str(build)])
    return build


def manifest_of(target: Target, file: Path) -> str:
    """Return a manifest of the examples with the name that the cluster has for its registry."""
    return file.read_text().replace(NAME_IN_EXAMPLES, target.registry.known_as)


def create_namespace(target: Target, namespace: str) -> None:
    """Create a namespace that admits restricted pods only."""
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    manifest = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace, "labels": labels}}
    target.kubectl("apply", "-f", "-", given=json.dumps(manifest))


def install_chart(target: Target, namespace: str, images: dict[str, str], insecure: tuple[str, ...]) -> None:
    """Install the chart, and wait until the operator is up."""
    own = (target.registry.known_as.partition("/")[0],) if target.registry.insecure else ()
    named = {key: images[f"trimtab-{key}"] for key in ("operator", "runtime", "optimizer")}
    values = {
        "images": {**named, "optimizerTensorflow": images.get("trimtab-optimizer-tensorflow", "")},
        "artifacts": {"repository": f"{target.registry.known_as}/trimtab/artifacts-{namespace}"},
        "insecureRegistries": [*own, *insecure],
    }
    print("helm install", flush=True)
    # Helm installs CRDs once and never upgrades them.
    target.kubectl("apply", "--server-side", "--force-conflicts", "-f", str(ROOT / "crds"))
    chart = ["upgrade", "--install", "trimtab", str(ROOT / "charts/trimtab"), "-n", namespace, "-f", "-"]
    target.helm(*chart, given=json.dumps(values))
    wait = ["rollout", "status", "deploy/trimtab-operator", f"--timeout={_OPERATOR_TIMEOUT}"]
    try:
        target.kubectl("-n", namespace, *wait)
    except CommandFailed as error:
        raise CommandFailed(f"the operator did not come up; see: kubectl -n {namespace} describe pods") from error


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise CommandFailed(f"{' '.join(command[:4])} failed:\n{done.stdout}{done.stderr}")
