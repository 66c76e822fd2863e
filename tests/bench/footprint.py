"""What the operator takes: memory, and calls of the API server for one rollout."""

import time
from collections import Counter
from pathlib import Path
from typing import Any

from figures import Table
from installation import Installation

from callers import Callers

_MIB = 1024


def measure(bench: Installation) -> Table:
    """Roll version 2 out through the steps of the example under traffic, and count."""
    bench.forget()
    bench.settle(bench.example("v1.yaml"))
    before, start, jobs = _memory(bench), bench.operator.audit_offset(), bench.names("jobs")
    with Callers(bench.target, bench.namespace) as callers:
        callers.start()
        started = time.monotonic()
        bench.settle(bench.example("v2.yaml"))
        seconds = time.monotonic() - started
    calls = Counter(_call(entry) for entry in bench.operator.requests(start))
    after, most = _memory(bench), _memory(bench, "VmHWM")
    how = f"One rollout of version 2 by the steps of the example, {seconds:.0f} s; no calls for the Lease."
    rows = [
        ("Jobs started", str(len(bench.names("jobs") - jobs))),
        ("resident memory before and after", f"{before} and {after} MiB"),
        ("most resident memory", f"{most} MiB"),
        *((call, str(count)) for call, count in calls.most_common() if "leases" not in call),
    ]
    return Table(how, ("what", "how much"), tuple(rows))


def _call(entry: dict[str, Any]) -> str:
    what = entry["objectRef"]
    return f"{entry['verb']} {what['resource']}" + (f"/{what['subresource']}" if "subresource" in what else "")


def _memory(bench: Installation, field: str = "VmRSS") -> int:
    (pid,) = bench.operator.pids()
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith(field))) // _MIB
