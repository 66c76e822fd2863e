"""Another engine behind our probes, metrics and drain: here a second server of ours, which speaks OpenAI's API."""

import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from trimtab_testing.servers import Serve, Serving, start

QUESTION: Any = [{"role": "user", "content": "what comes after seven?"}]
LONG = {"prompt": "after", "max_tokens": 400, "min_tokens": 400, "stream": True}


def before(engine: Serving) -> dict[str, str]:
    """Return the settings of a server that stands before another."""
    probe = {"ENGINE": engine.url, "ENGINE_PROBE": "/v2/health/ready"}
    return {**probe, "MODEL_NAME": "counting", "REVISION": "r1", "DRAIN_SECONDS": "0.3"}


@pytest.fixture(scope="module")
def front(server: Serving, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    with ExitStack() as stack:
        yield start(stack, tmp_path_factory.mktemp("nothing"), before(server))


@pytest.fixture(scope="module")
def http(front: Serving) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=front.url) as made:
        yield made


def test_openai_s_client_gets_what_the_engine_answers(front: Serving) -> None:
    with openai.OpenAI(base_url=f"{front.url}/v1", api_key="any", max_retries=0) as client:
        whole = client.chat.completions.create(model="counting", messages=QUESTION)
        events = client.chat.completions.create(model="counting", messages=QUESTION, stream=True)
        streamed = "".join(choice.delta.content or "" for event in events for choice in event.choices)
        names = [model.id for model in client.models.list()]
        with pytest.raises(openai.NotFoundError, match="there is no model"):
            client.completions.create(model="another", prompt="after")

    assert (whole.choices[0].message.content, streamed, names) == ("eight", "eight", ["counting"])


def test_events_come_as_they_are_made(http: httpx.Client) -> None:
    with http.stream("POST", "/v1/completions", json=LONG) as stream:
        lines = stream.iter_lines()
        assert next(lines).startswith("data: ")
        assert "trimtab_inflight_requests 1.0" in http.get("/metrics").text
        assert sum(1 for line in lines if line) > 100


def test_health_and_metadata_are_our_own(http: httpx.Client) -> None:
    assert http.get("/v2/health/ready").json() == {"ready": True}
    assert http.get("/v2/models/counting").json()["platform"] == "openai"
    assert http.get("/v2/models/other").status_code == 404


def test_calls_are_counted_by_what_became_of_them(http: httpx.Client) -> None:
    http.post("/v1/completions", json={"prompt": "after three"})
    http.post("/v1/completions", json={})

    counted = ("200", "400")
    lines = [
        f'trimtab_requests_total{{code="{code}",model="counting",protocol="rest",revision="r1"}}' for code in counted
    ]
    while not all(line in http.get("/metrics").text for line in lines):  # a call is over after its answer is sent
        time.sleep(0.01)  # the test's own time limit ends it


def test_without_its_engine_it_is_not_ready_and_says_so(counting: Path, serve: Serve, tmp_path: Path) -> None:
    engine = serve(counting)
    front = serve(tmp_path, **before(engine))
    assert httpx.get(f"{front.url}/v2/health/ready").status_code == 200

    engine.stop()

    assert httpx.get(f"{front.url}/v2/health/ready").status_code == 503
    assert httpx.get(f"{front.url}/v2/health/live").status_code == 200
    answer = httpx.post(f"{front.url}/v1/completions", json={"prompt": "after"})
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert "the engine does not answer" in answer.json()["error"]["message"]


def test_an_engine_that_dies_in_the_midst_cuts_the_answer_and_counts(
    counting: Path, serve: Serve, tmp_path: Path
) -> None:
    engine = serve(counting)
    front = serve(tmp_path, **before(engine))
    with httpx.stream("POST", f"{front.url}/v1/completions", json=LONG) as stream:
        lines = stream.iter_lines()
        next(lines)
        engine.stop()
        with pytest.raises(httpx.HTTPError):
            list(lines)

    assert 'code="500"' in httpx.get(f"{front.url}/metrics").text


def test_a_drain_lets_streams_of_the_engine_come_to_their_end(server: Serving, serve: Serve, tmp_path: Path) -> None:
    front = serve(tmp_path, **before(server))
    with httpx.stream("POST", f"{front.url}/v1/completions", json=LONG) as stream:
        lines = stream.iter_lines()
        next(lines)
        front.terminate()
        rest = [line for line in lines if line]

    assert rest[-1] == "data: [DONE]"
    assert front.exit_code() == 0


@pytest.mark.parametrize("path", ["/v1/../metrics", "/v1/%2e%2e/metrics", "/v1/..%2fmetrics", "/v1/./models"])
def test_no_path_leads_out_of_what_is_passed_on(front: Serving, path: str) -> None:
    host, port = front.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(f"GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n".encode())
        answer = b"".join(iter(lambda: connection.recv(65536), b""))

    assert answer.startswith(b"HTTP/1.1 404 ")


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"ENGINE": "here"}, "TRIMTAB_ENGINE is 'here'"),
        ({"ENGINE": "http://127.0.0.1:9"}, "TRIMTAB_MODEL_NAME has to be set"),
    ],
)
def test_settings_that_do_not_fit_are_refused(
    settings: dict[str, str], says: str, serve: Serve, tmp_path: Path
) -> None:
    serving = serve(tmp_path, ready=False, **settings)

    assert serving.exit_code() == 42
    assert any(says in str(event.get("cause")) for event in serving.events)
