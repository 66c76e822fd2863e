"""Where the API server is: inside a pod by its service account, elsewhere by kubeconfig."""

import os
from pathlib import Path

from kubernetes.aio import config
from kubernetes.aio.client import ApiClient

_TOKEN = Path("/var/run/secrets/kubernetes.io/serviceaccount/token")


async def connect() -> ApiClient:
    """Return a client with credentials. The caller closes it."""
    if _TOKEN.exists() and "KUBECONFIG" not in os.environ:
        config.load_incluster_config()  # type: ignore[no-untyped-call]
    else:
        await config.load_kube_config()  # type: ignore[no-untyped-call]
    return ApiClient()
