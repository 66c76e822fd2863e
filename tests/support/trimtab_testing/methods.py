"""The catalogue of examples/methods.yaml, for one example and one registry."""

from dataclasses import dataclass
from typing import Any

import yaml

from install import EXAMPLES, NAME_IN_EXAMPLES


@dataclass(frozen=True, slots=True)
class Method:
    """One way to make a model smaller, with what it may cost."""

    name: str
    optimization: dict[str, Any]
    max_drop: float
    max_ratio: float

    def gate(self) -> list[dict[str, Any]]:
        """Return the limits as the metrics of an evaluation."""
        return [
            {"name": "accuracy", "min": 0.9, "maxDrop": self.max_drop},
            {"name": "agreement", "maxDrop": 0.1},
            {"name": "sizeBytes", "maxRatio": self.max_ratio},
        ]


def methods(example: str = "digits", registry: str = NAME_IN_EXAMPLES) -> dict[str, Method]:
    """Return the methods that an example can take, by name."""
    text = (EXAMPLES / "methods.yaml").read_text().replace(NAME_IN_EXAMPLES, registry)
    found = yaml.safe_load(text.replace("/digits", f"/{example}"))
    return {
        item["name"]: Method(item["name"], item["optimization"], item["limits"]["maxDrop"], item["limits"]["maxRatio"])
        for item in found
        if item.get("only", example) == example
    }
