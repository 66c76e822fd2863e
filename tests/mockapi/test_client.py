"""The operator's client of the API server: what it makes of answers, also of bad ones."""

import kmock as mock
import pytest

from trimtab_operator.kube.client import ApiServer
from trimtab_operator.kube.errors import ApiError, Conflict, Forbidden, Invalid, NotFound, Unavailable

PODS = "/api/v1/namespaces/default/pods"
DIGITS = "/apis/trimtab.dev/v1alpha1/namespaces/default/modeldeployments/digits"


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, Invalid),
        (401, Forbidden),
        (403, Forbidden),
        (404, NotFound),
        (409, Conflict),
        (422, Invalid),
        (429, Unavailable),
        (500, Unavailable),
        (503, Unavailable),
        (504, Unavailable),
    ],
)
async def test_a_refusal_is_an_error_of_its_kind_with_the_words_of_the_server(
    kmock: mock.RawHandler, server: ApiServer, status: int, kind: type[ApiError]
) -> None:
    kmock[f"get {DIGITS}"] << (lambda _: mock.Response(status=status, payload={"message": "the words"}))

    with pytest.raises(kind, match=f"GET {DIGITS}: {status}: the words"):
        await server.get("ModelDeployment", "default", "digits")


async def test_an_answer_that_is_no_status_is_told_as_it_came(kmock: mock.RawHandler, server: ApiServer) -> None:
    kmock[f"get {DIGITS}"] << (lambda _: mock.Response(status=502, payload=b"<html>bad gateway</html>"))

    with pytest.raises(Unavailable, match="bad gateway"):
        await server.get("ModelDeployment", "default", "digits")


async def test_a_connection_that_breaks_is_unavailable(kmock: mock.RawHandler, server: ApiServer) -> None:
    kmock[f"get {DIGITS}"] << (lambda _: ConnectionResetError())

    with pytest.raises(Unavailable, match=f"GET {DIGITS}"):
        await server.get("ModelDeployment", "default", "digits")


async def test_a_server_that_is_not_there_is_unavailable(kmock: mock.RawHandler, server: ApiServer) -> None:
    server._api.configuration.host = "http://127.0.0.1:9"  # the discard port, where nobody listens

    with pytest.raises(Unavailable):
        await server.get("ModelDeployment", "default", "digits")


async def test_a_long_list_is_read_to_its_end_and_each_item_says_what_it_is(
    kmock: mock.RawHandler, server: ApiServer
) -> None:
    def page(request: mock.Request) -> object:
        more = request.params.get("continue", "")
        names = ["c"] if more else ["a", "b"]
        meta = {} if more else {"continue": "token"}
        return {"metadata": meta, "items": [{"metadata": {"name": name}} for name in names]}

    kmock[f"get {PODS}"] << page

    found = await server.list("Pod", "default", "trimtab.dev/deployment=digits")

    assert [item["metadata"]["name"] for item in found] == ["a", "b", "c"]
    assert {(item["apiVersion"], item["kind"]) for item in found} == {("v1", "Pod")}
    assert [request.params["labelSelector"] for request in kmock["get"]] == ["trimtab.dev/deployment=digits"] * 2


async def test_a_list_whose_continuation_expired_is_an_error_and_never_half_a_list(
    kmock: mock.RawHandler, server: ApiServer
) -> None:
    def page(request: mock.Request) -> object:
        if "continue" in request.params:
            return mock.Response(status=410, payload={"message": "the continue parameter is too old"})
        return {"metadata": {"continue": "token"}, "items": [{"metadata": {"name": "a"}}]}

    kmock[f"get {PODS}"] << page

    with pytest.raises(Unavailable, match="too old"):
        await server.list("Pod", "default", "x=y")


async def test_an_apply_names_its_manager_and_takes_its_fields_back(kmock: mock.RawHandler, server: ApiServer) -> None:
    service = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "digits", "namespace": "default"}}
    kmock["patch /api/v1/namespaces/default/services/digits"] << (lambda request: request.data)

    assert await server.apply(service) == service

    sent = kmock["patch"][0]
    assert sent.params == {"fieldManager": "trimtab", "force": "true"}
    assert sent.headers["Content-Type"].startswith("application/apply-patch+yaml")


async def test_status_goes_to_its_own_door(kmock: mock.RawHandler, server: ApiServer) -> None:
    kmock[f"patch {DIGITS}/status"] << {}
    meta = {"name": "digits", "namespace": "default"}

    await server.apply_status({"apiVersion": "trimtab.dev/v1alpha1", "kind": "ModelDeployment", "metadata": meta})

    assert [request.url.path for request in kmock["patch"]] == [f"{DIGITS}/status"]


async def test_a_deletion_waits_for_no_dependent(kmock: mock.RawHandler, server: ApiServer) -> None:
    kmock["delete /apis/batch/v1/namespaces/default/jobs/digits-1"] << {}

    await server.delete("Job", "default", "digits-1")

    assert kmock["delete"][0].params == {"propagationPolicy": "Background"}
