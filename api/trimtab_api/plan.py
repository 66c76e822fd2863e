"""The plan: what a Job is asked to do, in canonical JSON, with the digests by which its results are found again.

The operator builds a plan from a spec; the Job resolves its URIs to digests. Only digests enter the key, so a model
that is copied to another registry keeps its results, and a tag that moves gets new ones.
"""

from collections.abc import Mapping
from typing import Final

from trimtab_api.contract import Contract, digest_of
from trimtab_api.spec import Convert, ModelDeploymentSpec, ModelFormat, ModelSource, NoEffect, OptimizationPass

# Raised when a pass gives other bytes for the same input: results made before are then not reused.
OPTIMIZER_VERSION: Final = "2"


class Plan(Contract):
    """Source, ordered passes and evaluation data of one artifact."""

    source: ModelSource
    passes: tuple[OptimizationPass, ...]
    evaluation_data: str | None = None
    keep_unoptimized: bool = False  # also publish the source merely converted, for `onFailure: ServeUnoptimized`
    on_no_effect: NoEffect = NoEffect.WARN  # no part of the key of a pass: what is stored remembers its warning

    def uris(self) -> tuple[str, ...]:
        """Return every URI the Job reads, the source first, each once."""
        found = [self.source.uri]
        found += [p.quantize.calibration.uri for p in self.passes if p.quantize and p.quantize.calibration]
        found += [self.evaluation_data] if self.evaluation_data else []
        return tuple(dict.fromkeys(found))

    def pass_key(self, count: int, resolved: Mapping[str, str]) -> str:
        """Return the digest of the source and its first `count` passes; `resolved` maps each URI to its digest."""
        return digest_of([OPTIMIZER_VERSION, self._source_key(resolved), self._pass_keys(count, resolved)])

    def key(self, resolved: Mapping[str, str]) -> str:
        """Return the digest of the whole plan, evaluation included: the key of the artifact and its report."""
        data = resolved[self.evaluation_data] if self.evaluation_data else None
        passes = self._pass_keys(len(self.passes), resolved)
        return digest_of(
            [OPTIMIZER_VERSION, self._source_key(resolved), passes, data, self.keep_unoptimized, self.on_no_effect]
        )

    def _source_key(self, resolved: Mapping[str, str]) -> list[object]:
        return [resolved[self.source.uri], self.source.format, self.source.allow_pickle]

    def _pass_keys(self, count: int, resolved: Mapping[str, str]) -> list[object]:
        return [_pass_key(item, resolved) for item in self.passes[:count]]


def make_plan(spec: ModelDeploymentSpec) -> Plan:
    """Return the plan of a spec. A PyTorch model without a conversion is converted to ONNX first, to be servable."""
    passes = spec.optimization.passes
    if spec.model.format is ModelFormat.PYTORCH and not any(item.convert for item in passes):
        passes = (OptimizationPass(convert=Convert()), *passes)
    evaluation = spec.evaluation
    return Plan(
        source=spec.model.model_copy(update={"secret_ref": None}),
        passes=passes,
        evaluation_data=evaluation.data if evaluation else None,
        keep_unoptimized=bool(evaluation and evaluation.on_failure == "ServeUnoptimized"),
        on_no_effect=spec.optimization.on_no_effect,
    )


def tag_of(key: str, prefix: str) -> str:
    """Return the registry tag of a key, such as `plan-1f2e...` (tags hold at most 128 characters)."""
    return f"{prefix}-{key.removeprefix('sha256:')}"


def _pass_key(item: OptimizationPass, resolved: Mapping[str, str]) -> object:
    written = item.to_dict()
    if item.quantize and item.quantize.calibration:
        written["quantize"]["calibration"]["uri"] = resolved[item.quantize.calibration.uri]
    return written
