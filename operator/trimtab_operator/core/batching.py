"""Whether requests of different callers may run together: what the stable revision's server found out at its start.

A server answers rows alone and in company, and compares (docs/serving.md). Where they differ it runs request by
request, which costs throughput: people have to be told. One of its pods is asked once; status keeps what it said.
"""

from collections.abc import Mapping
from typing import Any

from trimtab_operator.core.conditions import Condition
from trimtab_operator.core.observed import Batching, Observed, Pod

CONDITION = "BatchingSafe"


def pod_to_ask(observed: Observed) -> Pod | None:
    """Return a ready pod of the stable revision, unless its answer is known already."""
    stable = observed.traffic.stable if observed.traffic else None
    if stable is None or known(observed, stable) is not None:
        return None
    return next((pod for pod in observed.pods if pod.revision == stable and pod.job is None and pod.ready), None)


def known(observed: Observed, revision: str | None) -> Batching | None:
    """Return what a revision said: just now, or before."""
    told = observed.batching or _read(observed.parent.status.get("batching"))
    return told if told is not None and told.revision == revision else None


def write(batching: Batching | None) -> dict[str, Any] | None:
    """Return the part of status that keeps it."""
    if batching is None:
        return None
    difference = {} if batching.difference is None else {"difference": batching.difference}
    safe = {} if batching.safe is None else {"safe": batching.safe}
    model = {} if batching.model is None else {"model": batching.model}
    return {"revision": batching.revision, "rows": batching.rows, **model, **safe, **difference}


def condition(batching: Batching | None) -> Condition:
    """Return the condition that tells people."""
    if batching is None:
        return Condition(CONDITION, None, "NotTried", "no server of a stable revision has told yet")
    name = batching.revision
    if batching.safe is None:
        return Condition(
            CONDITION, None, "NotTold", f"the servers of {name} do not tell; they may be of an older image"
        )
    if batching.safe:
        return Condition(CONDITION, True, "RowsMix", f"{name} answers rows alike, whatever they run together with")
    which = name if batching.model is None else f"{batching.model} of {name}"
    measured = batching.difference is not None
    apart = f"by {batching.difference:.2g} of the largest output" if measured else "in a way that has no measure"
    return Condition(
        CONDITION,
        False,
        "RowsDiffer",
        f"{which} answers rows differently when others run with them, {apart}, so servers run its requests one "
        "by one; a higher spec.runtime.batching.tolerance lets them batch",
    )


def _read(written: Any) -> Batching | None:
    if not isinstance(written, Mapping) or "revision" not in written:
        return None
    difference = written.get("difference")
    return Batching(
        str(written["revision"]),
        int(written.get("rows", 1)),
        None if written.get("safe") is None else bool(written["safe"]),
        None if difference is None else float(difference),
        written.get("model"),
    )
