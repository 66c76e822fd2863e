"""What a person reads when a spec is wrong, and that nothing else is refused: each rule of the CRD, asked by kubectl.

The cases are data: invalid/*.yaml and valid.yaml lie over base.yaml as merge patches. `says` is the sentence that a
person needs; `also` is what the API server says besides it for the same cause. Nothing else may be said.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from trimtab_api.group import MODEL_DEPLOYMENT
from trimtab_testing.apiserver import CRDS, REPOSITORY, ApiServer, Namespace, new_namespace

pytestmark = pytest.mark.apiserver

HERE = Path(__file__).parent
# Said after any schema error, whatever its cause.
NOISE = "some validation rules were not checked"


def cases(*files: Path) -> list[Any]:
    """Return the cases of some files, each named in the test's name as in the file."""
    found = [(file.stem, case) for file in files for case in yaml.safe_load(file.read_text())]
    return [pytest.param(case, id=f"{stem}: {case['name']}") for stem, case in found]


def laid_over(base: Any, patch: Any) -> Any:
    """Return the merge patch (RFC 7386) of `base`."""
    if not isinstance(base, dict) or not isinstance(patch, dict):
        return patch
    merged = {key: laid_over(base.get(key), value) for key, value in patch.items()}
    return {key: value for key, value in {**base, **merged}.items() if value is not None}


def manifest(case: dict[str, Any]) -> dict[str, Any]:
    """Return the object that a case describes."""
    patch = {key: case[key] for key in ("metadata", "spec") if key in case}
    laid: dict[str, Any] = laid_over(yaml.safe_load((HERE / "base.yaml").read_text()), patch)
    return laid


@pytest.fixture(scope="module")
def shared(apiserver: ApiServer) -> Iterator[Namespace]:
    """Give one namespace for all cases: those that are refused leave nothing in it."""
    with new_namespace(apiserver) as made:
        yield made


@pytest.mark.parametrize("case", cases(*sorted((HERE / "invalid").glob("*.yaml"))))
def test_an_invalid_spec_is_refused_in_words_that_say_the_mend(shared: Namespace, case: dict[str, Any]) -> None:
    answer = shared.apply(manifest(case))

    assert answer.code != 0, f"taken: {answer.out}"
    expected = [case["says"], *([case["also"]] if "also" in case else [])]
    assert all(any(text in line for line in answer.complaints) for text in expected), answer.err
    unexpected = [line for line in answer.complaints if NOISE not in line and not any(t in line for t in expected)]
    assert not unexpected


@pytest.mark.parametrize("case", cases(HERE / "valid.yaml"))
def test_a_valid_spec_is_taken_without_a_warning(namespace: Namespace, case: dict[str, Any]) -> None:
    answer = namespace.apply(manifest(case))

    assert (answer.code, answer.err) == (0, "")


def examples() -> list[Any]:
    """Return the ModelDeployments under examples/, each by its path."""
    found = [(file, yaml.safe_load(file.read_text())) for file in sorted((REPOSITORY / "examples").glob("*/*.yaml"))]
    return [
        pytest.param(made, id="/".join(file.parts[-2:])) for file, made in found if made["kind"] == MODEL_DEPLOYMENT
    ]


@pytest.mark.parametrize("example", examples())
def test_an_example_is_taken_without_a_warning(namespace: Namespace, example: dict[str, Any]) -> None:
    answer = namespace.apply(example)

    assert (answer.code, answer.err) == (0, "")


def messages(node: Any) -> Iterator[str]:
    """Yield the message of every rule below a node of a schema."""
    for rule in node.get("x-kubernetes-validations", []):
        yield rule["message"]
    for below in [*node.get("properties", {}).values(), node.get("items"), node.get("additionalProperties")]:
        if isinstance(below, dict):
            yield from messages(below)


def test_every_rule_of_the_crd_has_a_case() -> None:
    crd = yaml.safe_load((CRDS / "modeldeployments.yaml").read_text())
    refused = [case.values[0] for case in cases(*(HERE / "invalid").glob("*.yaml"))]
    said = [case[key] for case in refused for key in ("says", "also") if key in case]

    untried = [
        text
        for text in messages(crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"])
        if not any(part in text for part in said)
    ]

    assert not untried
