"""Answers are explained by a pod of its own, which callers reach through the model's Service."""

import json
import time
import urllib.error
import urllib.request
from typing import Any

import numpy as np

from install import EXAMPLES, manifest_of
from road import Road
from target import Target
from trimtab_testing.predictions import forwarded, held_out, torch_logits

_READY_SECONDS = 120


def test_an_answer_is_explained_by_the_pixels_that_led_to_it_and_the_pod_goes_with_the_spec(
    target: Target, namespace: str
) -> None:
    rows, _ = held_out()
    road = Road(target, namespace)
    manifest = manifest_of(target, EXAMPLES / "digits/v1.yaml")

    stable = road.apply_manifest(manifest + "  explainer: {samples: 400}\n", "Healthy")
    wait_until_explained(road)
    with forwarded(target, namespace, 8080) as local:
        told = ask(local, "/explain", [rows[0].tolist()])
        missing = refused(local, "/explain?method=magic", [rows[0].tolist()])

    (one,) = told["explanations"]
    logits = torch_logits(rows[:1])[0]
    added = one["inputs"]["pixels"]["attributions"]
    assert one["target"] == int(logits.argmax())
    assert abs(one["prediction"] - float(logits.max())) < 1e-3
    assert abs(one["base"] + sum(added) - one["prediction"]) < 1e-3
    same_everywhere = np.all(rows == rows[0], axis=0)  # in whatever stands in for a pixel, too
    assert same_everywhere.any()
    assert np.abs(np.array(added)[same_everywhere]).max() < 1e-6
    assert np.abs(added).max() > 0.1
    assert missing == 400

    road.apply_manifest(manifest, "Healthy")
    deadline = time.monotonic() + _READY_SECONDS
    while target.read("-n", namespace, "deployment", f"{stable}-explainer")["status"].get("replicas"):
        assert time.monotonic() < deadline
        time.sleep(1)


def wait_until_explained(road: Road) -> None:
    deadline = time.monotonic() + _READY_SECONDS
    while not any(
        item["type"] == "ExplainerReady" and item["status"] == "True" for item in road.status()["conditions"]
    ):
        assert time.monotonic() < deadline, road.status()["conditions"]
        time.sleep(1)


def ask(port: int, path: str, rows: Any) -> Any:
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", json.dumps(rows).encode())
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)


def refused(port: int, path: str, rows: Any) -> int:
    try:
        ask(port, path, rows)
    except urllib.error.HTTPError as error:
        return error.code
    raise AssertionError("it was answered")
