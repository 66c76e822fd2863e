"""Waiting for a component to do its part: until it does, until it dies, or until the time is over."""

import time
import urllib.request
from collections.abc import Callable

from trimtab_cluster.errors import ClusterError
from trimtab_cluster.places import Cluster
from trimtab_cluster.processes import recorded

_TAIL = 15  # lines of a log that an error shows


def wait_for(cluster: Cluster, component: str, what: str, is_so: Callable[[], bool], seconds: float = 60) -> None:
    """Wait until `is_so`.

    Raises:
        ClusterError: the component ended, or the time did; with the last lines of its log.
    """
    deadline = time.monotonic() + seconds
    while not is_so():
        if recorded(cluster, component) is None:
            raise ClusterError(f"{component} ended before {what}\n{_last_lines(cluster, component)}", _mend(cluster))
        if time.monotonic() > deadline:
            raise ClusterError(f"not so after {seconds} s: {what}\n{_last_lines(cluster, component)}", _mend(cluster))
        time.sleep(0.05)


def answers(url: str) -> bool:
    """Tell whether a plain HTTP address answers that all is well; proxies of the environment are passed by."""
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with direct.open(url, timeout=2) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def _last_lines(cluster: Cluster, component: str) -> str:
    lines = (cluster.log / f"{component}.log").read_text(errors="replace").splitlines()
    return "\n".join(f"    {line}" for line in lines[-_TAIL:])


def _mend(cluster: Cluster) -> str:
    return f"the logs are in {cluster.log}; the next `up` of this name starts afresh"
