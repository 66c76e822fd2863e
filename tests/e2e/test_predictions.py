"""What is served is what was trained: on the whole test set, over REST and gRPC."""

import numpy as np

from install import EXAMPLES, manifest_of
from road import Road
from target import Target
from trimtab_testing.conditions import batching_safe
from trimtab_testing.predictions import forwarded, grpc_logits, held_out, rest_logits, torch_logits

_TOLERANCE = 1e-4  # of logits that reach from about -30 to 20; fp32 sums in another order differ by less


def test_the_served_onnx_model_answers_as_torch_does_and_int8_keeps_the_accuracy(
    target: Target, namespace: str
) -> None:
    rows, labels = held_out()
    expected = torch_logits(rows)
    road = Road(target, namespace)

    road.apply("v1.yaml", "Healthy")
    assert batching_safe(road) == "True"
    for port, ask in ((8080, rest_logits), (9000, grpc_logits)):
        with forwarded(target, namespace, port) as local:
            np.testing.assert_allclose(ask(local, rows), expected, rtol=0, atol=_TOLERANCE)

    manifest = manifest_of(target, EXAMPLES / "digits/v2.yaml")
    road.apply_manifest(manifest.partition("  strategy:")[0] + "  runtime: {workers: 2}\n", "Healthy")
    with forwarded(target, namespace, 9000) as local:
        int8 = grpc_logits(local, rows)
    accuracy = [float((logits.argmax(1) == labels).mean()) for logits in (expected, int8)]
    assert abs(accuracy[0] - accuracy[1]) <= 0.01
    measured = next(item for item in road.status()["evaluation"]["metrics"] if item["name"] == "accuracy")
    assert (measured["source"], measured["value"]) == tuple(round(figure, 6) for figure in accuracy)
