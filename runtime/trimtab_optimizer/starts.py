"""How often the process of a Job began in one scratch: a container that was killed is started again in its pod."""

from pathlib import Path

from trimtab_api.errors import OutOfMemory
from trimtab_optimizer.logs import say


def count_start(scratch: Path, allowed: int | None) -> None:
    """Note that the process began. Raises OutOfMemory where it did so too often; Kubernetes does not count this."""
    if allowed is None:
        return
    with (scratch / "starts").open("a") as file:
        file.write(".")
        started = file.tell()
    if started > allowed:
        raise OutOfMemory(
            f"the optimize container was killed {allowed} times (exit code 137), mostly for taking more memory than its"
            " limit; raise spec.optimization.resources.limits.memory, or see the events of its node"
        )
    if started > 1:
        say("started again after a kill", start=started, allowed=allowed)
