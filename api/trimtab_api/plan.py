"""The plan: what a Job is asked to do, in canonical JSON, with the digests by which its results are found again.

The operator builds a plan from a spec; the Job resolves its URIs to digests. Only digests enter the key, so a model
that is copied to another registry keeps its results, and a tag that moves gets new ones.
"""

from collections.abc import Mapping
from typing import Final

from trimtab_api.contract import Contract, digest_of
from trimtab_api.spec import (
    Convert,
    GateMetric,
    ModelDeploymentSpec,
    ModelFormat,
    ModelSource,
    NoEffect,
    OptimizationPass,
    Search,
)

# Raised when a pass gives other bytes for the same input: results made before are then not reused.
OPTIMIZER_VERSION: Final = "8"


class Plan(Contract):
    """Source, ordered passes and evaluation data of one artifact."""

    source: ModelSource
    passes: tuple[OptimizationPass, ...]
    seed: int = 0
    search: Search | None = None
    gate: tuple[GateMetric, ...] = ()  # only with a search, which has to know what is good enough
    evaluation_data: str | None = None
    keep_unoptimized: bool = False  # also publish the source merely converted, for `onFailure: ServeUnoptimized`
    for_engine: bool = False  # of the user's own, which serves the source's format: that need not be one of ours
    on_no_effect: NoEffect = NoEffect.WARN  # no part of the key of a pass: what is stored remembers its warning

    @property
    def needs_tensorflow(self) -> bool:
        """Return whether the Job needs the image with TensorFlow, which also holds what quantizes LiteRT models."""
        is_litert = self.source.format is ModelFormat.LITERT
        return is_litert or any(item.convert and item.convert.to.needs_tensorflow for item in self.passes)

    def uris(self) -> tuple[str, ...]:
        """Return every URI the Job reads, the source first, each once."""
        return tuple(dict.fromkeys([self.source.uri, *self.package_uris(), *self.data_uris()]))

    def package_uris(self) -> tuple[str, ...]:
        """Return the URIs of model packages beside the source, each once."""
        return tuple(dict.fromkeys(uri for item in self.passes for uri in item.package_uris))

    def data_uris(self) -> tuple[str, ...]:
        """Return the URIs of data sets, each once."""
        found = [item.data_uri for item in self.passes] + [self.evaluation_data]
        return tuple(dict.fromkeys(uri for uri in found if uri))

    def pass_key(self, count: int, resolved: Mapping[str, str]) -> str:
        """Return the digest of the source and its first `count` passes; `resolved` maps each URI to its digest."""
        return digest_of([*self._start_key(resolved), self._pass_keys(count, resolved)])

    def key(self, resolved: Mapping[str, str]) -> str:
        """Return the digest of the whole plan, evaluation included: the key of the artifact and its report."""
        data = resolved[self.evaluation_data] if self.evaluation_data else None
        passes = self._pass_keys(len(self.passes), resolved)
        settings = [data, self.keep_unoptimized, self.on_no_effect, self.for_engine]
        return digest_of([*self._start_key(resolved), passes, *settings, *self._search_key()])

    def _start_key(self, resolved: Mapping[str, str]) -> list[object]:
        source = [resolved[self.source.uri], self.source.format, self.source.allow_pickle]
        return [OPTIMIZER_VERSION, source, self.seed]

    def _search_key(self) -> list[object]:
        if self.search is None:
            return []
        names = [item.name for item in self.passes]
        return [names, self.search.to_dict(), [limit.to_dict() for limit in self.gate]]

    def _pass_keys(self, count: int, resolved: Mapping[str, str]) -> list[object]:
        return [_pass_key(item, resolved) for item in self.passes[:count]]


def make_plan(spec: ModelDeploymentSpec) -> Plan:
    """Return the plan of a spec. Without a conversion of any kind a module becomes ONNX as soon as it can be."""
    passes = spec.optimization.passes
    trained = [number for number, item in enumerate(passes, start=1) if item.needs_module]
    engine = spec.runtime.engine
    is_served_as_it_is = engine is not None or (spec.model.format.is_served and not trained)
    if not is_served_as_it_is and not any(item.convert for item in passes):
        place = max(trained, default=0)
        passes = (*passes[:place], OptimizationPass(convert=Convert()), *passes[place:])
    evaluation = spec.evaluation
    return Plan(
        source=spec.model.model_copy(update={"secret_ref": None}),
        passes=passes,
        seed=spec.optimization.seed,
        search=spec.optimization.search,
        gate=evaluation.metrics if evaluation and spec.optimization.search else (),
        evaluation_data=evaluation.data if evaluation else None,
        keep_unoptimized=bool(evaluation and evaluation.on_failure == "ServeUnoptimized"),
        for_engine=engine is not None,
        on_no_effect=spec.optimization.on_no_effect,
    )


def tag_of(key: str, prefix: str) -> str:
    """Return the registry tag of a key, such as `plan-1f2e...` (tags hold at most 128 characters)."""
    return f"{prefix}-{key.removeprefix('sha256:')}"


def _pass_key(value: object, resolved: Mapping[str, str]) -> object:
    """Return a pass in its wire form without its name, and with the digest in place of every URI."""
    if isinstance(value, OptimizationPass):
        return _pass_key({value.kind: value.to_dict()[value.kind]}, resolved)
    if isinstance(value, dict):
        return {name: _pass_key(item, resolved) for name, item in value.items()}
    if isinstance(value, list):
        return [_pass_key(item, resolved) for item in value]
    return resolved.get(value, value) if isinstance(value, str) else value
