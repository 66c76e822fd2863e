"""Builds the module of a Hugging Face folder. A copy of this file makes that folder a PyTorch package.

Only classes of the transformers library are built, and nothing is fetched: code that a folder brings is never run.
"""

import os
from pathlib import Path
from typing import Any

import yaml
from torch import nn

_FOLDER = Path(__file__).parent


def build() -> nn.Module:
    """Return the module that `config.json` describes, without weights; its inputs are those of `model.yaml`."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    import transformers

    config = transformers.AutoConfig.from_pretrained(_FOLDER, local_files_only=True, trust_remote_code=False)
    config.use_cache = False
    config._attn_implementation = "eager"  # the form that every version of the exporter takes
    names = [item["name"] for item in yaml.safe_load((_FOLDER / "model.yaml").read_text())["inputs"]]
    module: nn.Module = _with_inputs(getattr(transformers, config.architectures[0]), names)(config)
    return module


def _with_inputs(kind: Any, names: list[str]) -> Any:
    """Return a class that takes its inputs in an order; a subclass, so that weights keep their names."""

    class Positional(kind):  # type: ignore[misc]
        def forward(self, *tensors: Any) -> Any:
            return dict(super().forward(**dict(zip(names, tensors, strict=True))))

    return Positional
