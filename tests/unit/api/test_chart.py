"""The chart carries the CRDs of this tree, and grants the operator what it uses and no more."""

from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.parametrize("name", ["modeldeployments.yaml", "modelrevisions.yaml"])
def test_the_chart_carries_the_crds_of_this_tree(name: str) -> None:
    assert (ROOT / "charts/trimtab/crds" / name).read_text() == (ROOT / "crds" / name).read_text()


def test_the_chart_grants_nothing_on_secrets_and_no_wildcards() -> None:
    granted = (ROOT / "charts/trimtab/templates/rbac.yaml").read_text()
    assert "secrets" not in granted
    assert "*" not in granted.replace("/*", "").replace("*/", "")
    assert "kind: ClusterRole" not in granted
