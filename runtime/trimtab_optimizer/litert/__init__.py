"""LiteRT and SavedModel: made by TensorFlow in a process of its own, and run here by LiteRT's interpreter."""

from pathlib import Path


def converter_script() -> Path:
    """Return the file that TensorFlow's process runs."""
    return Path(__file__).with_name("converter.py")


def quantizer_script() -> Path:
    """Return the file that the process of LiteRT's quantizer runs."""
    return Path(__file__).with_name("quantizer.py")
