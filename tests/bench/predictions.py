"""How far served predictions are from torch's, on the whole test set."""

import numpy as np
from figures import Table
from installation import Installation

from trimtab_testing.predictions import forwarded, grpc_logits, held_out, rest_logits, torch_logits


def measure(bench: Installation) -> Table:
    """Serve the example in fp32 and in int8, and ask each for every row."""
    rows, labels = held_out()
    expected = torch_logits(rows)
    found = [("torch", "-", "-", _percent(expected.argmax(1) == labels))]
    for file, name in (("v1.yaml", "ONNX"), ("v2.yaml", "ONNX, int8 static")):
        bench.settle(bench.example(file, strategy={}))
        for protocol, port, ask in (("REST", 8080, rest_logits), ("gRPC", 9000, grpc_logits)):
            with forwarded(bench.target, bench.namespace, port) as local:
                logits = ask(local, rows)
            same = _percent(logits.argmax(1) == expected.argmax(1))
            worst = f"{np.abs(logits - expected).max():.1e}"
            found.append((f"{name} over {protocol}", worst, same, _percent(logits.argmax(1) == labels)))
    low, high = expected.min(), expected.max()
    how = f"All {len(rows)} rows of the test set in one request; torch's logits reach from {low:.0f} to {high:.0f}."
    return Table(how, ("served", "largest difference of a logit", "same class", "accuracy"), tuple(found))


def _percent(hits: np.ndarray) -> str:
    return f"{100 * hits.mean():.2f} %"
