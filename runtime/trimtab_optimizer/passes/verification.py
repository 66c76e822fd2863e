"""Hold what a conversion made against what it was made of, on the same rows."""

from typing import Any, Final

from numpy.typing import NDArray

from trimtab_api.errors import PassFailed
from trimtab_api.package import ModelPackage
from trimtab_optimizer.memory import lacks_memory
from trimtab_optimizer.package import Model
from trimtab_optimizer.passes.contract import Workplace
from trimtab_optimizer.predict import predictor_of
from trimtab_optimizer.tensors import Arrays, example_inputs, relative_difference

# Largest difference of two forms of a model, relative to the largest output where that is above one.
TOLERANCE: Final = 1e-4

_NAMES: Final = {"pytorch": "PyTorch", "onnx": "ONNX", "litert": "LiteRT", "genai": "GenAI"}
_COMPARED_ROWS: Final = 64


def compared(source: Model, made: Model, work: Workplace, rows: Arrays | None = None) -> dict[str, object]:
    """Return notes of a comparison on rows, where none are given those of the plan, or why there was none.

    Raises PassFailed where the two predict differently.
    """
    why = lacks_memory(source, made)
    return (
        {"notCompared": why}
        if why
        else {
            "tolerance": TOLERANCE,
            "maxDifference": _largest(source, made, work, rows or rows_to_compare(source.package, work)),
        }
    )


def _largest(source: Model, made: Model, work: Workplace, inputs: Arrays) -> float:
    """Return the largest difference of the predictions, relative as TOLERANCE says. Raises PassFailed above it."""
    names = _NAMES[made.package.format], _NAMES[source.package.format]
    runs = [predictor_of(model, work.allow_pickle) for model in (source, made)]
    worst = 0.0
    for rows in (inputs, {name: values[:1] for name, values in inputs.items()}):  # of another batch size too
        expected, found = (run.predict(rows) for run in runs)
        worst = max(worst, *(_difference(a, b, names) for a, b in zip(expected, found, strict=True)))
    if not worst <= TOLERANCE:
        raise PassFailed(
            f"convert: {' and '.join(names)} differ by {worst:.2e}, allowed is {TOLERANCE:.0e}; "
            "look for operators that depend on the batch or on random numbers in the module"
        )
    return worst


def rows_to_compare(package: ModelPackage, work: Workplace) -> dict[str, NDArray[Any]]:
    """Return real rows where the plan has data, else made-up ones; other rows than an export saw."""
    data = work.evaluation or work.data
    return next(data.batches(_COMPARED_ROWS)) if data else example_inputs(package.inputs, _COMPARED_ROWS, work.seed + 1)


def _difference(expected: NDArray[Any], found: NDArray[Any], names: tuple[str, str]) -> float:
    if expected.shape != found.shape:
        raise PassFailed(f"convert: {names[0]} gives the shape {list(found.shape)}, {names[1]} {list(expected.shape)}")
    return relative_difference(expected, found)
