"""Run kopf's watch streams inside our event loop."""

import socket
from collections.abc import Callable
from typing import Any, cast

import kopf

from trimtab_operator.controller.workqueue import Key
from trimtab_operator.watch.triggers import make_registry, watch_settings


async def watch(add: Callable[[Key], None], namespaces: tuple[str, ...]) -> None:
    """Watch until cancelled; `add` is called with the key of every object that something happened to."""
    await kopf.operator(
        registry=make_registry(add),
        settings=watch_settings(),
        namespaces=namespaces,
        clusterwide=not namespaces,
        # By itself kopf asks the system for a user name, which the numeric user of a container does not have.
        identity=cast(Any, socket.gethostname()),
    )
