"""Several models in one deployment: each is asked for by name, and an edit adds one and takes it away again."""

from pathlib import Path
from typing import Any

import httpx
import yaml

from install import EXAMPLES, manifest_of, push
from road import Road
from target import Target
from trimtab_testing.conditions import batching_safe
from trimtab_testing.predictions import forwarded
from trimtab_testing.servers import Models

ROWS = {"scores": [[1, 2, 3]], "sums": {"inputs": {"a": [[1, 2]], "b": [[3, 4]]}}}


def answers(target: Target, namespace: str) -> dict[str, Any]:
    """Ask every model that the deployment has for a prediction."""
    with (
        forwarded(target, namespace, 8080, "several") as port,
        httpx.Client(base_url=f"http://127.0.0.1:{port}") as http,
    ):
        names = http.get("/v2/models").json()["models"]
        return {name: http.post(f"/predict/{name}", json=ROWS[name]).json()["predictions"][0] for name in names}


def test_an_edit_adds_a_model_to_a_server_and_takes_it_away_again(
    target: Target, namespace: str, tmp_path: Path
) -> None:
    models = Models(tmp_path)
    one = push(target, models.collection("one", {("scores", "1"): models.scores()}), "models/several:one")
    both = {("scores", "1"): models.scores(), ("sums", None): models.two_inputs()}
    two = push(target, models.collection("two", both), "models/several:two")
    road = Road(target, namespace, "several")

    def apply(uri: str) -> Any:
        manifest = yaml.safe_load(manifest_of(target, EXAMPLES / "digits/v1.yaml"))
        manifest["metadata"]["name"] = "several"
        manifest["spec"] = {"model": {"uri": uri, "format": "collection"}, "runtime": {"workers": 2}}
        return road.apply_manifest(yaml.safe_dump(manifest), "Healthy")

    first = apply(one)
    scores = {"y": [16.0, 22.0], "label": "dog"}
    assert answers(target, namespace) == {"scores": scores}
    assert batching_safe(road) == "True"

    second = apply(two)
    assert answers(target, namespace) == {"scores": scores, "sums": {"total": [4, 6], "difference": [-2, -2]}}

    jobs = road.jobs()
    assert apply(one) == first != second
    assert road.jobs() <= jobs
    assert answers(target, namespace) == {"scores": scores}
