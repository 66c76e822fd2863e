"""Runs inside a pod: asks the Service in four ways, one line an answer, until standard input ends.

    python caller.py SERVICE MODEL INPUT WIDTH SECONDS PAUSE WAY...

A way is rest-new, rest-kept, grpc-new or grpc-kept: a new connection for each request, or one that is kept for as long
as the server keeps it. A line is `SENT ENDED WAY REVISION`, or `SENT ENDED WAY ! ERROR`: each request is sent once, so
whatever a caller without retries would notice is a failure here. It ends by itself after SECONDS.
"""

import http.client
import json
import sys
import threading
import time
from collections.abc import Callable

import grpc
import numpy as np

from trimtab_runtime.protocol import oip_pb2 as oip
from trimtab_runtime.protocol import oip_pb2_grpc

_TIMEOUT = 10.0
_printing = threading.Lock()


class Caller:
    """What is asked, and of whom."""

    def __init__(self, service: str, model: str, name: str, width: int) -> None:
        row = np.full((1, width), 0.5, np.float32)
        tensor = {"name": name, "shape": [1, width], "datatype": "FP32", "data": row.tolist()}
        self._path = f"/v2/models/{model}/infer"
        self._body = json.dumps({"inputs": [tensor]}).encode()
        self._service = service
        message = oip.ModelInferRequest.InferInputTensor(name=name, datatype="FP32", shape=[1, width])
        self._message = oip.ModelInferRequest(model_name=model, inputs=[message], raw_input_contents=[row.tobytes()])
        self._kept = http.client.HTTPConnection(service, 8080, timeout=_TIMEOUT)
        self._channel = self._open_channel()

    def rest_new(self) -> str:
        connection = http.client.HTTPConnection(self._service, 8080, timeout=_TIMEOUT)
        try:
            return self._rest(connection, {"Connection": "close"})
        finally:
            connection.close()

    def rest_kept(self) -> str:
        try:
            return self._rest(self._kept, {})
        except Exception:
            self._kept.close()
            raise

    def grpc_new(self) -> str:
        with self._open_channel() as channel:
            return self._grpc(channel)

    def grpc_kept(self) -> str:
        return self._grpc(self._channel)

    def _rest(self, connection: http.client.HTTPConnection, headers: dict[str, str]) -> str:
        connection.request("POST", self._path, self._body, {"Content-Type": "application/json", **headers})
        answer = connection.getresponse()
        content = answer.read()
        if answer.status != 200:
            raise OSError(f"{answer.status}: {content[:200]!r}")
        return str(json.loads(content)["model_version"])

    def _grpc(self, channel: grpc.Channel) -> str:
        stub = oip_pb2_grpc.GRPCInferenceServiceStub(channel)  # type: ignore[no-untyped-call]
        return str(stub.ModelInfer(self._message, timeout=_TIMEOUT).model_version)

    def _open_channel(self) -> grpc.Channel:
        # Channels of a process share connections unless they are told not to.
        return grpc.insecure_channel(f"{self._service}:9000", (("grpc.use_local_subchannel_pool", 1),))


def ask_on(way: str, ask: Callable[[], str], pause: float, stopped: threading.Event) -> None:
    """Ask until stopped."""
    while not stopped.is_set():
        started = time.time()
        try:
            answer = ask()
        except Exception as error:
            answer = f"! {type(error).__name__} {' '.join(str(error).split())[:300]}"
        with _printing:
            print(f"{started:.3f} {time.time():.3f} {way} {answer}", flush=True)
        stopped.wait(pause)


def stop_at_the_end_of_input(stopped: threading.Event) -> None:
    """Stop when whoever started this process closes its standard input, or is gone."""
    sys.stdin.read()
    stopped.set()


def main() -> None:
    """Ask in every way named, each in a thread of its own."""
    service, model, name, width, seconds, pause, *ways = sys.argv[1:]
    caller, stopped = Caller(service, model, name, int(width)), threading.Event()
    for way in ways:
        ask = getattr(caller, way.replace("-", "_"))
        threading.Thread(target=ask_on, args=(way, ask, float(pause), stopped), daemon=True).start()
    threading.Thread(target=stop_at_the_end_of_input, args=(stopped,), daemon=True).start()
    stopped.wait(float(seconds))
    stopped.set()
    time.sleep(0.5)  # what was asked is answered


if __name__ == "__main__":
    main()
