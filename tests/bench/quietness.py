"""What edits that change nothing cost, and what an operator writes while nothing happens."""

import time

from figures import Table
from installation import Installation

_QUIET_SECONDS = 300
_SETTLING_SECONDS = 30


def measure(bench: Installation) -> Table:
    """Apply the same again, change replicas and strategy, then listen for five minutes."""
    bench.settle(bench.example("v1.yaml"))
    edits = {
        "the same spec applied again": bench.example("v1.yaml"),
        "other replicas": bench.example("v1.yaml", replicas=3),
        "another strategy": bench.example("v1.yaml", strategy={"canary": {"steps": [{"setWeight": 10}]}}),
    }
    rows = [(name, *_cost(bench, manifest)) for name, manifest in edits.items()]
    time.sleep(_SETTLING_SECONDS)
    writes = bench.operator.writes_within(_QUIET_SECONDS)
    rows.append((f"nothing, for {_QUIET_SECONDS} s", "0", "0", str(len(writes))))
    how = "Writes are those of the operator beside its Lease, by the API server's audit log."
    return Table(how, ("edit", "Jobs", "new revisions", "writes of the operator"), tuple(rows))


def _cost(bench: Installation, manifest: dict[str, object]) -> tuple[str, str, str]:
    jobs, revisions, start = bench.names("jobs"), bench.names("mrev"), bench.operator.audit_offset()
    bench.settle(manifest)
    time.sleep(2)
    writes = list(bench.operator.writes(start))
    return str(len(bench.names("jobs") - jobs)), str(len(bench.names("mrev") - revisions)), str(len(writes))
