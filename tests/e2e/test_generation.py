"""A language model of Hugging Face becomes a server of text, in int4 by an edit, and again what it was by another."""

import json
from typing import Any

import openai
import yaml

from install import EXAMPLES, manifest_of, push_example
from road import Road
from target import Target
from trimtab_testing.conditions import batching_safe
from trimtab_testing.predictions import forwarded


def asked(target: Target, namespace: str, number: str) -> str:
    """Ask by the Service what comes after a number, in a stream."""
    messages: Any = [{"role": "user", "content": f"what comes after {number}?"}]
    with (
        forwarded(target, namespace, 8080, "counting") as port,
        openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="any") as client,
    ):
        events = client.chat.completions.create(model="counting", messages=messages, stream=True)
        return "".join(choice.delta.content or "" for event in events for choice in event.choices)


def test_text_is_generated_and_an_edit_makes_it_int4_and_back(target: Target, namespace: str) -> None:
    push_example(target, "counting")
    road = Road(target, namespace, "counting")

    first = road.apply_manifest(manifest_of(target, EXAMPLES / "counting/v1.yaml"), "Healthy")
    assert [asked(target, namespace, number) for number in ("three", "eight")] == ["four", "nine"]
    assert batching_safe(road) == "True"

    second = road.apply_manifest(manifest_of(target, EXAMPLES / "counting/v2.yaml"), "Healthy")
    assert asked(target, namespace, "five") == "six"
    status = road.status()
    assert [item["name"] for item in status["optimization"]["passes"]] == ["convert", "quantize"]
    assert next(item for item in status["evaluation"]["metrics"] if item["name"] == "sizeBytes")["ratio"] < 0.6

    jobs = road.jobs()
    assert road.apply_manifest(manifest_of(target, EXAMPLES / "counting/v1.yaml"), "Healthy") == first != second
    assert road.jobs() <= jobs
    assert asked(target, namespace, "two") == "three"


def test_another_engine_serves_the_same_behind_our_server(target: Target, namespace: str) -> None:
    push_example(target, "counting")
    road = Road(target, namespace, "counting")
    manifest = yaml.safe_load(manifest_of(target, EXAMPLES / "counting/v1.yaml"))
    manifest["spec"]["runtime"] = {"engine": an_engine(target, namespace)}

    road.apply_manifest(json.dumps(manifest), "Healthy")

    assert asked(target, namespace, "three") == "four"


def an_engine(target: Target, namespace: str) -> dict[str, Any]:
    """Return an engine that speaks OpenAI's API: a second server of ours, as a user would name vLLM's image."""
    operator = target.read("-n", namespace, "deploy", "trimtab-operator")
    environment = operator["spec"]["template"]["spec"]["containers"][0]["env"]
    image = next(item["value"] for item in environment if item["name"] == "TRIMTAB_RUNTIME_IMAGE")
    listens = ["--host=127.0.0.1", "--rest-port=8000", "--model-dir=/model", "--model-name=counting"]
    return {"image": image, "args": listens, "probePath": "/v2/health/ready"}
