"""OpenAI's own client talks to the server as to OpenAI: completions, chats, streams, errors."""

import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import httpx
import openai
import pytest

from trimtab_testing.servers import Serve, Serving

MODEL = "counting"
QUESTION: Any = [{"role": "user", "content": "what comes after seven?"}]


@pytest.fixture(scope="module")
def client(server: Serving) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="any", max_retries=0) as made:
        yield made


@pytest.fixture(scope="module")
def http(server: Serving) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url) as made:
        yield made


def test_the_model_is_listed_and_described(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == [MODEL]
    assert client.models.retrieve(MODEL).owned_by == "trimtab"


def test_a_chat_is_answered_with_what_it_took(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model=MODEL, messages=QUESTION)

    assert answer.choices[0].message.content == "eight"
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 1
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + 1


def test_a_chat_is_streamed_piece_by_piece(client: openai.OpenAI) -> None:
    events = list(
        client.chat.completions.create(
            model=MODEL, messages=QUESTION, stream=True, stream_options={"include_usage": True}
        )
    )

    choices = [choice for event in events for choice in event.choices]
    assert choices[0].delta.role == "assistant"
    assert "".join(choice.delta.content or "" for choice in choices) == "eight"
    assert choices[-1].finish_reason == "stop"
    assert events[-1].usage is not None
    assert events[-1].usage.completion_tokens == 1


def test_content_may_come_in_parts(client: openai.OpenAI) -> None:
    parts: Any = [{"type": "text", "text": "what comes after "}, {"type": "text", "text": "one?"}]

    answer = client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": parts}])

    assert answer.choices[0].message.content == "two"


def test_a_text_is_completed(client: openai.OpenAI) -> None:
    answer = client.completions.create(model=MODEL, prompt="after three")

    assert answer.choices[0].text == " comes four"


def test_several_prompts_and_choices_come_in_their_order(client: openai.OpenAI) -> None:
    answer = client.completions.create(model=MODEL, prompt=["after three", "after six"], n=2)

    texts = [choice.text for choice in sorted(answer.choices, key=lambda choice: choice.index)]
    assert texts == [" comes four"] * 2 + [" comes seven"] * 2


def test_a_prompt_may_be_tokens(client: openai.OpenAI, words: Any) -> None:
    tokens = words.encode("after three")

    assert client.completions.create(model=MODEL, prompt=tokens).choices[0].text == " comes four"
    assert client.completions.create(model=MODEL, prompt=[tokens, tokens]).choices[1].text == " comes four"


def test_a_completion_is_streamed(client: openai.OpenAI) -> None:
    events = client.completions.create(model=MODEL, prompt=["after three", "after six"], stream=True)

    texts = ["", ""]
    for event in events:
        for choice in event.choices:
            texts[choice.index] += choice.text
    assert texts == [" comes four", " comes seven"]


def test_probabilities_of_tokens_are_told(client: openai.OpenAI) -> None:
    chat = client.chat.completions.create(model=MODEL, messages=QUESTION, logprobs=True, top_logprobs=3)
    text = client.completions.create(model=MODEL, prompt="after three", logprobs=2)

    assert chat.choices[0].logprobs is not None
    [token] = chat.choices[0].logprobs.content or []
    assert (token.token, len(token.top_logprobs)) == ("eight", 3)
    assert token.top_logprobs[0].logprob == token.logprob > -0.1
    logprobs = text.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.tokens == [" comes", " four"]
    assert logprobs.text_offset == [0, 6]
    assert [len(others) for others in logprobs.top_logprobs or []] == [2, 2]


def test_a_bias_keeps_a_token_from_being_chosen(client: openai.OpenAI, words: Any) -> None:
    [eight] = words.encode("eight")

    answer = client.chat.completions.create(model=MODEL, messages=QUESTION, logit_bias={str(eight): -100}, max_tokens=1)

    assert answer.choices[0].message.content != "eight"


def test_settings_beyond_openai_s_are_those_of_vllm(client: openai.OpenAI) -> None:
    further = {"top_k": 1, "min_tokens": 5, "repetition_penalty": 1.1, "min_p": 0.1}

    answer = client.completions.create(model=MODEL, prompt="after three", temperature=1.5, extra_body=further)

    assert answer.usage is not None
    assert answer.usage.completion_tokens >= 5


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({"model": "another", "messages": QUESTION}, "there is no model another; this server has counting version r1"),
        ({"messages": []}, "messages: List should have at least 1 item"),
        ({"messages": [{"role": "user"}]}, "messages.0: content: Field required"),
        ({"messages": QUESTION, "temperature": 3}, "temperature: Input should be less than or equal to 2"),
        ({"messages": QUESTION, "tools": [{}]}, "tools is not known here; leave it out"),
        ({"messages": QUESTION, "response_format": {"type": "json_object"}}, "response_format is not known here"),
        ({"messages": [{"role": "user", "content": "a\0b"}]}, "U+0000"),
        ({"messages": QUESTION, "top_logprobs": 2}, "top_logprobs needs logprobs: true"),
        ({"messages": QUESTION, "stream_options": {}}, "stream_options needs stream: true"),
        ({"messages": QUESTION, "n": 17}, "n: Input should be less than or equal to 16"),
        ({"messages": QUESTION, "max_tokens": 100_000}, "together at most 512 are possible here"),
        ({"messages": QUESTION, "logit_bias": {"999999": 1}}, "logit_bias has tokens that are not in the vocabulary"),
        ({"messages": QUESTION, "stop": [""]}, "stop"),
        ([], "Input should be an object"),
    ],
)
def test_a_wrong_request_is_refused_with_what_was_expected(http: httpx.Client, body: Any, says: str) -> None:
    answer = http.post("/v1/chat/completions", json=body)

    assert answer.status_code == (404 if "no model" in says else 400)
    assert says in answer.json()["error"]["message"]
    assert answer.json()["error"]["type"] == "invalid_request_error"


def test_the_client_raises_what_it_raises_for_openai(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="there is no model"):
        client.completions.create(model="another", prompt="after")
    with pytest.raises(openai.BadRequestError, match="temperature"):
        client.completions.create(model=MODEL, prompt="after", temperature=-1)


def test_fields_that_change_nothing_are_taken(client: openai.OpenAI) -> None:
    idle: Any = {"n": None, "stream": None, "tools": [], "tool_choice": "none", "store": True, "logprobs": None}
    further: Any = {"response_format": {"type": "text"}, "user": "me", "top_p": 0, "temperature": 1e-310}

    answer = client.chat.completions.create(model=MODEL, messages=QUESTION, **idle, **further)

    assert answer.choices[0].message.content == "eight"


def test_an_answer_can_be_sent_back_as_it_was(client: openai.OpenAI) -> None:
    messages: Any = list(QUESTION)
    messages.append(client.chat.completions.create(model=MODEL, messages=messages).choices[0].message)
    messages.append({"role": "user", "content": "what comes after one?"})

    answer = client.chat.completions.create(model=MODEL, messages=messages, max_tokens=3)

    assert answer.usage is not None
    assert answer.usage.prompt_tokens_details is not None
    assert answer.usage.prompt_tokens_details.cached_tokens or 0 > 8


def test_offsets_of_tokens_go_on_through_a_stream(client: openai.OpenAI) -> None:
    events = client.completions.create(model=MODEL, prompt="after three", logprobs=1, stream=True)

    offsets = [
        at
        for event in events
        for choice in event.choices
        for at in (choice.logprobs.text_offset or [] if choice.logprobs else [])
    ]
    assert offsets == [0, 6]


def test_as_many_choices_as_are_allowed_are_given_by_a_server_for_one_at_a_time(counting: Any, serve: Serve) -> None:
    serving = serve(counting, MAX_BATCH_SIZE="1")

    answer = httpx.post(f"{serving.url}/v1/completions", json={"prompt": "after three", "n": 16}, timeout=60)

    assert [choice["text"] for choice in answer.json()["choices"]] == [" comes four"] * 16


def test_what_is_no_json_is_refused(http: httpx.Client) -> None:
    answer = http.post("/v1/completions", content=b"{")

    assert (answer.status_code, "Invalid JSON" in answer.json()["error"]["message"]) == (400, True)


def test_text_is_generated_by_the_open_inference_protocol(http: httpx.Client) -> None:
    body = {"id": "7", "text_input": "after three", "parameters": {"temperature": 0, "max_tokens": 5}}

    whole = http.post("/v2/models/counting/generate", json=body).json()
    with http.stream("POST", "/v2/models/counting/versions/r1/generate_stream", json=body) as stream:
        events = [json.loads(line.removeprefix("data: ")) for line in stream.iter_lines() if line]

    place = {"id": "7", "model_name": MODEL, "model_version": "r1"}
    assert whole == {**place, "text_output": " comes four", "details": {"finish_reason": "stop"}}
    assert "".join(event["text_output"] for event in events) == " comes four"
    assert http.post("/v2/models/other/generate", json=body).status_code == 404
    assert http.post("/v2/models/counting/generate", json=body | {"parameters": {"n": 2}}).status_code == 400


def test_health_and_metadata_are_those_of_every_server(http: httpx.Client) -> None:
    assert http.get("/v2/health/ready").json() == {"ready": True}
    assert http.get("/v2").json()["extensions"] == ["generate"]
    described = http.get("/v2/models/counting").json()
    assert (described["platform"], described["inputs"][0]["name"]) == ("onnxruntime_genai", "text_input")


def test_a_person_gets_a_page_and_a_tool_the_document(http: httpx.Client) -> None:
    page = http.get("/", headers={"accept": "text/html"})
    document = http.get("/openapi.json").json()

    assert "v1/chat/completions" in page.text
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert {"/v1/completions", "/v1/chat/completions"} <= set(document["paths"])
    assert "messages" in document["components"]["schemas"]["Chat"]["properties"]


def test_many_callers_get_their_own_answers(client: openai.OpenAI) -> None:
    numbers = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
    pairs = list(pairwise(numbers)) * 4

    def told(pair: tuple[str, str]) -> bool:
        messages: Any = [{"role": "user", "content": f"what comes after {pair[0]}?"}]
        return client.chat.completions.create(model=MODEL, messages=messages).choices[0].message.content == pair[1]

    with ThreadPoolExecutor(12) as pool:
        assert all(pool.map(told, pairs))


def metric(http: httpx.Client, name: str) -> float:
    lines = http.get("/metrics").text.splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith(name))


def test_what_was_generated_is_counted(http: httpx.Client, client: openai.OpenAI) -> None:
    names = (
        "trimtab_generated_tokens_total",
        "trimtab_time_to_first_token_seconds_count",
        'trimtab_requests_total{code="200"',
    )
    before = [metric(http, name) for name in names]

    client.completions.create(model=MODEL, prompt="after three")
    list(client.completions.create(model=MODEL, prompt="after three", stream=True))

    assert [metric(http, name) - then for name, then in zip(names, before, strict=True)] == [4, 2, 2]


def test_a_caller_that_leaves_in_the_midst_is_computed_no_further(http: httpx.Client) -> None:
    body = {"prompt": "after", "max_tokens": 500, "ignore_eos": True, "stream": True, "n": 8}
    left = metric(http, 'trimtab_requests_total{code="499"')
    with http.stream("POST", "/v1/completions", json=body) as stream:
        next(stream.iter_lines())

    deadline = time.monotonic() + 20
    while metric(http, "trimtab_running_answers") and time.monotonic() < deadline:
        time.sleep(0.05)
    assert metric(http, "trimtab_running_answers") == 0
    assert metric(http, 'trimtab_requests_total{code="499"') == left + 1


def test_a_drain_lets_streams_come_to_their_end(counting: Any, serve: Serve) -> None:
    serving = serve(counting, DRAIN_SECONDS="0.3")
    body = {"prompt": "after", "max_tokens": 400, "min_tokens": 400, "stream": True}
    with httpx.stream("POST", f"{serving.url}/v1/completions", json=body) as stream:
        lines = stream.iter_lines()
        next(lines)
        serving.terminate()
        rest = [line for line in lines if line]

    assert rest[-1] == "data: [DONE]"
    assert len(rest) > 100
    assert serving.exit_code() == 0


def test_several_processes_are_refused_with_the_mend(counting: Any, serve: Serve) -> None:
    serving = serve(counting, ready=False, WORKERS="2")

    assert serving.exit_code() == 42
    assert any("set workers to 1" in str(event.get("cause")) for event in serving.events)


def test_a_folder_that_was_damaged_is_refused_by_the_file_s_name(counting: Any, serve: Serve, tmp_path: Any) -> None:
    for path in counting.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "SHA256SUMS").write_text(f"{'0' * 64}  model.onnx.data\n")

    serving = serve(tmp_path, ready=False)

    assert serving.exit_code() == 42
    assert any("model.onnx.data has the digest" in str(event.get("cause")) for event in serving.events)


def test_answers_to_others_go_on_while_a_long_one_is_given(client: openai.OpenAI) -> None:
    begun, over = threading.Event(), threading.Event()

    def long() -> None:
        for _ in client.completions.create(
            model=MODEL, prompt="after", max_tokens=480, stream=True, extra_body={"ignore_eos": True}
        ):
            begun.set()
        over.set()

    thread = threading.Thread(target=long)
    thread.start()
    assert begun.wait(20)
    answer = client.completions.create(model=MODEL, prompt="after three")

    assert answer.choices[0].text == " comes four"
    assert not over.is_set()
    thread.join()
