"""observe -> decide -> act: the only place where both sides meet."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from trimtab_operator.controller.act import Outcome, act
from trimtab_operator.controller.observe import Metrics, Registry, observe
from trimtab_operator.controller.workqueue import Key
from trimtab_operator.core.decision import decide
from trimtab_operator.core.observed import Settings
from trimtab_operator.kube.client import KubeClient
from trimtab_operator.kube.errors import NotFound
from trimtab_operator.kube.events import EventRecorder


@dataclass(frozen=True, slots=True)
class Context:
    """Everything a reconcile depends on."""

    client: KubeClient
    registry: Registry
    metrics: Metrics
    recorder: EventRecorder
    settings: Settings
    now: Callable[[], datetime]


@dataclass(frozen=True, slots=True)
class Reconciled:
    outcome: Outcome
    requeue_after: float | None


async def reconcile(context: Context, key: Key) -> Reconciled | None:
    """Bring one ModelDeployment a step nearer to its spec. Returns None when it is gone: its children go with it."""
    try:
        world = await observe(context.client, context.registry, context.metrics, context.settings, key)
    except NotFound:
        return None
    if world.live["ModelDeployment", key.name]["metadata"].get("deletionTimestamp"):
        return None
    decision = decide(world.observed, context.now())
    outcome = await act(context.client, context.recorder, world, decision)
    return Reconciled(outcome, decision.requeue_after)
