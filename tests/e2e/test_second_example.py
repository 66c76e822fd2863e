"""Nothing is fitted to one architecture: a transformer over a table goes the same road."""

import json

from install import EXAMPLES, manifest_of, push_example
from road import Road
from target import Target

_ASK = """
import json, time, urllib.request
body = json.dumps({"instances": [[0.0] * 30, [2.0] * 30]}).encode()
request = urllib.request.Request("http://attention:8080/predict", body)
for left in range(40, -1, -1):
    try:
        print(urllib.request.urlopen(request, timeout=10).read().decode())
        break
    except OSError:
        # A Service is ready a moment before every node's proxy knows it.
        if not left:
            raise
        time.sleep(0.25)
"""


def test_a_transformer_is_made_int8_passes_its_gate_and_answers(target: Target, namespace: str) -> None:
    push_example(target, "attention")
    road = Road(target, namespace, "attention")

    road.apply_manifest(manifest_of(target, EXAMPLES / "attention/v1.yaml"), "Healthy")

    status = road.status()
    size = next(item for item in status["evaluation"]["metrics"] if item["name"] == "sizeBytes")
    assert [item["name"] for item in status["optimization"]["passes"]] == ["convert", "quantize"]
    assert status["evaluation"]["passed"] is True
    assert size["ratio"] < 0.5
    python = ["exec", "deploy/" + status["stableRevision"], "--", "/opt/trimtab/venv/bin/python", "-c", _ASK]
    answer = json.loads(target.kubectl("-n", namespace, *python))
    assert [item["label"] for item in answer["predictions"]] == ["benign", "malignant"]
