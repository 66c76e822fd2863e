"""Leader election by a Lease: one operator acts, others wait. Losing the Lease ends the process."""

import asyncio
import socket
from collections.abc import Awaitable, Callable

from kubernetes.aio.client import ApiClient, V1Lease, V1ObjectMeta
from kubernetes.aio.client.exceptions import ApiException
from kubernetes.aio.leaderelection.electionconfig import Config
from kubernetes.aio.leaderelection.leaderelection import LeaderElection
from kubernetes.aio.leaderelection.leaderelectionrecord import LeaderElectionRecord
from kubernetes.aio.leaderelection.resourcelock.leaselock import LeaseLock

_LEASE_SECONDS = 15
_RENEW_SECONDS = 10
_RETRY_SECONDS = 2


class LostLease(RuntimeError):
    """The Lease could not be renewed in time: somebody else may act now, so this process must not."""


async def lead(api: ApiClient, namespace: str, name: str, work: Callable[[], Awaitable[None]]) -> None:
    """Wait for the Lease, then do the work while holding it. Raises LostLease, or what the work raised, in a group.

    The identity is the pod's name: a container that was killed and restarted leads again without waiting.
    """
    leading = asyncio.Event()

    async def started() -> None:
        leading.set()

    async def stopped() -> None:
        raise LostLease(f"the Lease {namespace}/{name} was lost")

    async def work_when_leading() -> None:
        await leading.wait()
        await work()

    lock = _Lock(name, namespace, socket.gethostname(), api)
    election = LeaderElection(Config(lock, _LEASE_SECONDS, _RENEW_SECONDS, _RETRY_SECONDS, started, stopped))
    try:
        # A group: the work ends with the Lease, and an operator whose work failed does not go on holding it.
        async with asyncio.TaskGroup() as group:
            group.create_task(election.run())
            group.create_task(work_when_leading())
    finally:
        await lock.release()


class _Lock(LeaseLock):
    """LeaseLock of kubernetes 37.0 whose create() sends `pretty` as a bool, which its own client then refuses."""

    async def create(self, name: str, namespace: str, election_record: LeaderElectionRecord) -> bool:
        spec = self.update_lease(election_record)
        try:
            await self.api_instance.create_namespaced_lease(
                namespace, V1Lease(metadata=V1ObjectMeta(name=name), spec=spec)
            )
        except ApiException:
            return False
        return True

    async def release(self) -> None:
        """Give the Lease back, so that the next operator need not wait until it runs out."""
        try:
            lease = await self.api_instance.read_namespaced_lease(self.name, self.namespace)
            if lease.spec and lease.spec.holder_identity == self.identity:
                lease.spec.holder_identity = None
                await self.api_instance.replace_namespaced_lease(self.name, self.namespace, lease)
        except (ApiException, OSError):
            return
