"""kubectl explain is the manual that everybody has: no field without a description."""

from collections.abc import Iterator

import pytest
import yaml

from trimtab_testing.apiserver import CRDS, ApiServer

pytestmark = pytest.mark.apiserver


def described_nodes(plural: str) -> Iterator[str]:
    """Yield the path of every node of a CRD that has fields below it, as kubectl explain wants it."""
    crd = yaml.safe_load((CRDS / f"{plural}.yaml").read_text())
    waiting = [(plural, crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"])]
    while waiting:
        path, node = waiting.pop()
        fields = node.get("properties") or node.get("items", {}).get("properties") or {}
        if fields:
            yield path
        waiting += [(f"{path}.{name}", field) for name, field in fields.items()]


@pytest.mark.parametrize("plural", ["modeldeployments", "modelrevisions"])
def test_kubectl_explain_describes_every_field(apiserver: ApiServer, plural: str) -> None:
    silent = [path for path in described_nodes(plural) if "<no description>" in apiserver.must("explain", path)]

    assert not silent
