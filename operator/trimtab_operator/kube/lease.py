"""Leader election by a Lease: one operator acts, others wait. Losing the Lease ends the process."""

import socket
from collections.abc import Awaitable, Callable

from kubernetes.aio.client import ApiClient
from kubernetes.aio.leaderelection.electionconfig import Config
from kubernetes.aio.leaderelection.leaderelection import LeaderElection
from kubernetes.aio.leaderelection.resourcelock.leaselock import LeaseLock

_LEASE_SECONDS = 15
_RENEW_SECONDS = 10
_RETRY_SECONDS = 2


class LostLease(RuntimeError):
    """The Lease could not be renewed in time: somebody else may act now, so this process must not."""


async def lead(api: ApiClient, namespace: str, name: str, work: Callable[[], Awaitable[None]]) -> None:
    """Wait for the Lease, then do the work while holding it. Raises LostLease when it is lost.

    The identity is the pod's name: a container that was killed and restarted leads again without waiting.
    """

    async def started() -> None:
        await work()

    async def stopped() -> None:
        raise LostLease(f"the Lease {namespace}/{name} was lost")

    lock = LeaseLock(name, namespace, socket.gethostname(), api)
    await LeaderElection(Config(lock, _LEASE_SECONDS, _RENEW_SECONDS, _RETRY_SECONDS, started, stopped)).run()
