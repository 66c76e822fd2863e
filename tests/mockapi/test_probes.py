"""What the operator reads over HTTP beside the API server: artifacts in a registry, counters of pods."""

from collections.abc import AsyncIterator

import httpx
import kmock as mock
import pytest

from trimtab_api.contract import canonical_json, digest_of
from trimtab_api.group import ANNOTATION_RESULT
from trimtab_api.plan import Plan, make_plan, tag_of
from trimtab_api.report import OptimizationResult
from trimtab_api.spec import ModelDeploymentSpec
from trimtab_operator.probes.registry import RegistryProbe

SOURCE, DATA = digest_of("source"), digest_of("data")


@pytest.fixture
async def http() -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient() as client:
        yield client


@pytest.fixture
def host(kmock: mock.RawHandler) -> str:
    return f"{kmock.url.host}:{kmock.url.port}"


@pytest.fixture
def probe(http: httpx.AsyncClient, host: str) -> RegistryProbe:
    return RegistryProbe(http, f"{host}/trimtab/artifacts", (host,))


@pytest.fixture
def plan(host: str) -> Plan:
    evaluation = {"data": f"oci://{host}/data/test:v1", "metrics": []}
    model = {"uri": f"oci://{host}/models/digits:v1", "format": "onnx"}
    return make_plan(ModelDeploymentSpec.parse({"model": model, "evaluation": evaluation}))


def hold(kmock: mock.RawHandler, plan: Plan) -> OptimizationResult:
    """Let the registry hold the sources of a plan, and its artifact."""
    resolved = dict(zip(plan.uris(), (SOURCE, DATA), strict=True))
    result = OptimizationResult(artifact=f"r/a@{SOURCE}", plan=plan.key(resolved), resolved=resolved)
    for path, digest in (("models/digits/manifests/v1", SOURCE), ("data/test/manifests/v1", DATA)):
        kmock[f"get /v2/{path}"] << mock.Response(payload={}, headers={"Docker-Content-Digest": digest})
    annotations = {ANNOTATION_RESULT: canonical_json(result.to_dict())}
    tag = tag_of(plan.key(resolved), "plan")
    kmock[f"get /v2/trimtab/artifacts/manifests/{tag}"] << {"annotations": annotations}
    return result


async def test_an_artifact_of_a_known_plan_is_found(kmock: mock.RawHandler, probe: RegistryProbe, plan: Plan) -> None:
    result = hold(kmock, plan)

    assert await probe.find(plan) == result


async def test_an_artifact_that_is_not_there_is_none(kmock: mock.RawHandler, probe: RegistryProbe, plan: Plan) -> None:
    kmock["get"] << (lambda _: mock.Response(status=404))

    assert await probe.find(plan) is None


@pytest.mark.parametrize("status", [401, 403, 429, 500, 503])
async def test_a_registry_that_does_not_tell_is_left_to_the_job(
    kmock: mock.RawHandler, probe: RegistryProbe, plan: Plan, status: int
) -> None:
    kmock["get"] << (lambda _: mock.Response(status=status))

    assert await probe.find(plan) is None


async def test_a_registry_whose_connection_breaks_is_left_to_the_job(
    kmock: mock.RawHandler, probe: RegistryProbe, plan: Plan
) -> None:
    kmock["get"] << (lambda _: ConnectionResetError())

    assert await probe.find(plan) is None


@pytest.mark.parametrize("text", ["", "{", '{"artifact": 3}', "[]"])
async def test_a_result_that_cannot_be_read_counts_as_none(
    kmock: mock.RawHandler, probe: RegistryProbe, plan: Plan, text: str
) -> None:
    tag = tag_of(hold(kmock, plan).plan, "plan")
    kmock[f"get /v2/trimtab/artifacts/manifests/{tag}"] ** 10 << {"annotations": {ANNOTATION_RESULT: text}}

    assert await probe.find(plan) is None
