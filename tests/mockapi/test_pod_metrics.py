"""What the operator reads of a pod's own metrics."""

import httpx
import kmock as mock
import pytest

from trimtab_operator.core.observed import Batching, Pod
from trimtab_operator.probes.metrics import PodMetrics, parse_batching


@pytest.mark.parametrize(
    ("difference", "safe", "expected"),
    [
        ("0.0", "1.0", Batching("a", 32, True, 0.0)),
        ("0.013", "0.0", Batching("a", 32, False, 0.013)),
        ("+Inf", "0.0", Batching("a", 32, False, None)),
    ],
)
def test_how_a_server_batches_is_read_from_its_metrics(difference: str, safe: str, expected: Batching) -> None:
    text = (
        f"trimtab_batching_rows 32.0\ntrimtab_batching_difference {difference}\ntrimtab_batching_safe {safe}\n"
        'trimtab_requests_total{code="200"} 3.0\n'
    )
    assert parse_batching(text, "a") == expected


def test_of_several_models_the_one_counts_whose_rows_differ_most() -> None:
    text = "".join(
        f'trimtab_batching_{name}{{model="{model}",revision="1"}} {value}\n'
        for model, values in {"sound": (32.0, 0.0, 1.0), "mixed": (1.0, 0.2, 0.0), "last": (8.0, 0.0, 1.0)}.items()
        for name, value in zip(("rows", "difference", "safe"), values, strict=True)
    )

    assert parse_batching(text, "a") == Batching("a", 1, False, 0.2, "mixed")


@pytest.mark.parametrize(
    "text",
    [
        'trimtab_requests_total{code="200"} 3.0\n',
        "<html>somebody else</html>",
        "trimtab_batching_safe 1.0\ntrimtab_batching_rows NaN\n",
    ],
    ids=["an older version", "something else on the port", "numbers that are none"],
)
def test_a_server_that_does_not_tell_is_known_as_such(text: str) -> None:
    assert parse_batching(text, "a") == Batching("a", 1, None, None)


async def test_an_answer_that_is_no_metrics_is_no_sample_and_no_failure(kmock: mock.RawHandler) -> None:
    kmock["get /metrics"] << "<html>somebody else</html>"
    async with httpx.AsyncClient(transport=_To(kmock.url.port)) as http:
        for ip in ("10.0.0.1", "fd00::1", "no address"):
            assert await PodMetrics(http).sample((Pod("p", "a", ip=ip, ready=True),)) is None


class _To(httpx.AsyncHTTPTransport):
    """Sends what is meant for a pod to a port of this machine."""

    def __init__(self, port: int) -> None:
        super().__init__()
        self._port = port

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        request.url = request.url.copy_with(host="127.0.0.1", port=self._port)
        return await super().handle_async_request(request)
