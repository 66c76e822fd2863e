"""The library of ONNX Runtime GenAI, imported late: only generative models need it."""

import os
from typing import Any


def genai() -> Any:
    """Return the library, which reports nothing to its maker."""
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    import onnxruntime_genai

    onnxruntime_genai.disable_telemetry_events()
    return onnxruntime_genai
