"""What the status says once the operator has had the time to ask a server."""

import time

from road import Road

_TOLD_SECONDS = 60


def batching_safe(road: Road) -> str:
    """Return the condition BatchingSafe of the stable revision."""
    deadline = time.monotonic() + _TOLD_SECONDS
    while (status := road.status()).get("batching", {}).get("revision") != status["stableRevision"]:
        assert time.monotonic() < deadline, status
        time.sleep(1)
    return next(str(item["status"]) for item in status["conditions"] if item["type"] == "BatchingSafe")
