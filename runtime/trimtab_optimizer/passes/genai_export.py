"""A causal language model of Hugging Face becomes a folder of ONNX Runtime GenAI, out of which text is generated.

The graph, its configuration and the tokenizer are made by the library's own model builder, in a process of its own. It
knows models by their architecture, so the source has to be a Hugging Face folder whose layers nobody changed.
"""

import os
import subprocess
import sys
from typing import Final

import numpy as np

from trimtab_api.errors import PassFailed
from trimtab_api.package import GENAI_FILE, ONNX_FILE, ModelPackage
from trimtab_api.spec import ModelFormat
from trimtab_optimizer.importers.huggingface import is_huggingface
from trimtab_optimizer.importers.pytorch import structure_of
from trimtab_optimizer.package import Model, share_folder, write_package
from trimtab_optimizer.passes.contract import Outcome, Workplace
from trimtab_optimizer.passes.verification import compared, rows_to_compare

ATTENTION_MASK: Final = "attention_mask"
_TOKENIZER: Final = "tokenizer.json"
_BUILDER: Final = "onnxruntime_genai.models.builder"
_SAID: Final = 400  # characters of the builder's last line
_WITH_CODE: Final = ("entrypoint", "structure", "metrics", "edits", "labels")


def to_genai(model: Model, work: Workplace) -> Outcome:
    """Return the model as a folder of GenAI. Raises PassFailed where that is impossible or predicts something else."""
    if model.package.format is ModelFormat.GENAI:
        share_folder(model.folder, work.target, frozenset())
        return Outcome(Model(work.target, model.package), {"note": "the model was of GenAI already: nothing was done"})
    _check(model)
    _build(model, work)
    if not (work.target / _TOKENIZER).is_file():
        raise PassFailed(
            "convert (to genai): the source has no tokenizer.json, without which nobody can talk to the model; "
            "push the whole Hugging Face folder"
        )
    made = write_package(work.target, _package(model.package))
    rows = rows_to_compare(model.package, work)
    whole = {**rows, ATTENTION_MASK: np.ones_like(rows[ATTENTION_MASK])}  # what is masked may answer anything
    return Outcome(made, compared(model, made, work, whole))


def _check(model: Model) -> None:
    takes = [tensor.name for tensor in model.package.inputs]
    if not is_huggingface(model) or takes != ["input_ids", ATTENTION_MASK]:
        raise PassFailed(
            "convert (to genai) takes a Hugging Face folder with a causal language model; this is a package of "
            f"another kind, with the inputs {', '.join(takes)}"
        )
    if structure_of(model).sizes:
        raise PassFailed(
            "convert (to genai): channels were taken out, and the builder knows layers by the sizes in config.json; "
            "use structure: unstructured, or leave prune out"
        )


def _build(model: Model, work: Workplace) -> None:
    folder, cache = str(model.folder), str(work.scratch / "cache")
    options = ["-m", folder, "-i", folder, "-o", str(work.target), "-p", "fp32", "-e", "cpu", "-c", cache]
    done = subprocess.run(
        [sys.executable, "-P", "-m", _BUILDER, *options],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "ORT_DISABLE_TELEMETRY": "1", "PYTHONHASHSEED": "0"},
        check=False,
    )
    if done.returncode < 0:
        raise MemoryError("convert (to genai): its process was killed")
    if done.returncode or not (work.target / GENAI_FILE).is_file():
        lines = [line.strip() for line in done.stdout.decode(errors="replace").splitlines() if line.strip()]
        raise PassFailed(
            f"convert (to genai): the model builder failed: {lines[-1][:_SAID] if lines else 'no message'}"
        )


def _package(package: ModelPackage) -> ModelPackage:
    changes = {"format": ModelFormat.GENAI, "weights": ONNX_FILE} | dict.fromkeys(_WITH_CODE)
    return package.model_copy(update=changes)
