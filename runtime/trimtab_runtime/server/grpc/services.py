"""The methods that the lean server has: those of the protocol, gRPC's health service, and reflection."""

from collections.abc import Callable
from functools import cached_property
from typing import Any, Final

from google.protobuf.message import DecodeError
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from trimtab_runtime.dataplane import EXTENSIONS, SERVER_NAME, SERVER_VERSION, DataPlane
from trimtab_runtime.engine.queueing import Outputs
from trimtab_runtime.protocol import grpc as codec
from trimtab_runtime.protocol import oip_pb2
from trimtab_runtime.protocol.errors import BadRequest
from trimtab_runtime.protocol.grpc_wire import Status
from trimtab_runtime.server.endpoints import Endpoints
from trimtab_runtime.server.grpc.calls import Call, Method
from trimtab_runtime.server.metrics import ServerMetrics
from trimtab_runtime.server.tracing import Trace

SERVICE: Final = "inference.GRPCInferenceService"
HEALTH: Final = "grpc.health.v1.Health"
REFLECTION: Final = "grpc.reflection.v1alpha.ServerReflection"

Answer = Callable[[Any], Any]


class Base:
    """What most methods do: nothing, until they have something to say."""

    def begun(self, call: Call) -> None:
        pass

    def ended(self, call: Call) -> None:
        call.end()

    def cancelled(self, call: Call) -> None:
        pass

    def failed(self, call: Call, error: Exception) -> None:
        call.fail(error)


class Unary(Base):
    """A method that answers one message with one at once."""

    def __init__(self, kind: Any, answer: Answer) -> None:
        self._kind = kind
        self._answer = answer

    def message(self, call: Call, content: bytes) -> None:
        call.context = content
        check_only(call)

    def ended(self, call: Call) -> None:
        if call.messages != 1:
            raise BadRequest("the call needs one message; none came")
        call.end(self._answer(parsed(self._kind, call.context)).SerializeToString())


class Infer:
    """ModelInfer: answered when the batch that it travels in has run; whatever happens is counted."""

    def __init__(self, endpoints: Endpoints) -> None:
        self._endpoints = endpoints

    def begun(self, call: Call) -> None:
        metrics = self._endpoints.first.metrics  # until it is known what is called
        call.context = _Inference(metrics, metrics.begin(), metrics.trace(call.trace_parent()))

    def message(self, call: Call, content: bytes) -> None:
        call.context.content = content
        check_only(call)

    def ended(self, call: Call) -> None:
        inference: _Inference = call.context
        try:
            if call.messages != 1:
                raise BadRequest("the call needs one message; none came")
            self._endpoints.check_room(call.left())
            request = parsed(oip_pb2.ModelInferRequest, inference.content)
            asked_for = request.model_name, request.model_version
            inference.metrics = inference.metrics.hand_over(self._endpoints.counting(*asked_for))
            endpoint = self._endpoints.find(*asked_for)
            endpoint.plane.check_room(call.left())
            asked = codec.read_request(request, endpoint.plane.inputs)
            if (left := call.left()) is not None:
                asked = asked._replace(timeout=left)
            if inference.trace is not None:
                asked = asked._replace(spent=inference.trace.spent)

            def done(result: Outputs | Exception) -> None:
                if isinstance(result, Exception):
                    self.failed(call, result)
                else:
                    self._give(call, endpoint.plane, result, asked)

            inference.waiting = endpoint.plane.submit(asked, done)
        except Exception as error:
            self.failed(call, error)

    def cancelled(self, call: Call) -> None:
        inference: _Inference = call.context
        if inference.waiting is not None:
            inference.waiting.left, inference.waiting = True, None
        code = "DEADLINE_EXCEEDED" if call.is_late() else "CANCELLED"
        inference.metrics.end("grpc", code, inference.began, inference.trace)

    def _give(self, call: Call, plane: DataPlane, outputs: Outputs, asked: Any) -> None:
        try:
            response = codec.write_response(plane.name, plane.version, outputs, asked)
            content = response.SerializeToString()
        except Exception as error:
            self.failed(call, error)
            return
        inference: _Inference = call.context
        inference.waiting = None  # it knows the call: without this, only the garbage collector could free the two
        inference.metrics.end("grpc", "OK", inference.began, inference.trace)
        call.end(content)

    def failed(self, call: Call, error: Exception) -> None:
        if not call.is_over:
            call.context.waiting = None
            status = call.fail(error)
            call.context.metrics.end("grpc", status.name, call.context.began, call.context.trace)


class _Inference:
    """What a call of ModelInfer keeps."""

    __slots__ = ("began", "content", "metrics", "trace", "waiting")

    def __init__(self, metrics: ServerMetrics, began: float, trace: Trace | None) -> None:
        self.metrics = metrics
        self.began = began
        self.trace = trace
        self.content = b""
        self.waiting: Any = None


class Health(Base):
    """gRPC's health service: one status for all that is served, which watchers are told when it changes."""

    def __init__(self) -> None:
        self._status = health_pb2.HealthCheckResponse.SERVING
        self._watchers: set[Call] = set()

    def check(self, request: Any) -> Any:
        """Answer once. Raises BadRequest for a service that is none."""
        if request.service not in ("", SERVICE):
            raise UnknownService(f"there is no service {request.service}")
        return health_pb2.HealthCheckResponse(status=self._status)

    def stop_serving(self) -> None:
        """Say from now on that nothing is served."""
        self._status = health_pb2.HealthCheckResponse.NOT_SERVING
        for call in list(self._watchers):
            call.answer(health_pb2.HealthCheckResponse(status=self._status).SerializeToString())

    def end_watches(self) -> None:
        """End the calls of watchers, which have no end of their own."""
        for call in list(self._watchers):
            self._watchers.discard(call)
            call.refuse(Status.UNAVAILABLE, "the server ends")

    def message(self, call: Call, content: bytes) -> None:
        check_only(call)
        request = parsed(health_pb2.HealthCheckRequest, content)
        unknown = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
        status = self._status if request.service in ("", SERVICE) else unknown
        self._watchers.add(call)
        call.answer(health_pb2.HealthCheckResponse(status=status).SerializeToString())

    def ended(self, call: Call) -> None:
        if call.messages != 1:  # else a watcher has said all that it has to say
            raise BadRequest("the call needs one message; none came")

    def cancelled(self, call: Call) -> None:
        self._watchers.discard(call)

    def failed(self, call: Call, error: Exception) -> None:
        self._watchers.discard(call)
        call.fail(error)


class Reflection(Base):
    """The reflection service: its library answers each question by itself."""

    def __init__(self, services: tuple[str, ...]) -> None:
        self._services = services

    @cached_property
    def _servicer(self) -> Any:
        from grpc_reflection.v1alpha.reflection import ReflectionServicer  # late: it loads all of the common library

        return ReflectionServicer(self._services)

    def begun(self, call: Call) -> None:
        pass

    def message(self, call: Call, content: bytes) -> None:
        request = parsed(reflection_pb2.ServerReflectionRequest, content)
        for answer in self._servicer.ServerReflectionInfo(iter([request]), None):
            call.answer(answer.SerializeToString())


def methods(endpoints: Endpoints, health: Health) -> dict[bytes, Method]:
    """Return every method by its path."""

    def model_ready(request: Any) -> Any:
        endpoints.find(request.name, request.version)
        return oip_pb2.ModelReadyResponse(ready=endpoints.ready)

    def model_metadata(request: Any) -> Any:
        return oip_pb2.ModelMetadataResponse(**endpoints.describe(request.name, request.version))

    about = oip_pb2.ServerMetadataResponse(name=SERVER_NAME, version=SERVER_VERSION, extensions=EXTENSIONS)
    of_protocol: dict[str, Method] = {
        "ServerLive": Unary(oip_pb2.ServerLiveRequest, lambda _: oip_pb2.ServerLiveResponse(live=True)),
        "ServerReady": Unary(oip_pb2.ServerReadyRequest, lambda _: oip_pb2.ServerReadyResponse(ready=endpoints.ready)),
        "ServerMetadata": Unary(oip_pb2.ServerMetadataRequest, lambda _: about),
        "ModelReady": Unary(oip_pb2.ModelReadyRequest, model_ready),
        "ModelMetadata": Unary(oip_pb2.ModelMetadataRequest, model_metadata),
        "ModelInfer": Infer(endpoints),
    }
    found: dict[bytes, Method] = {f"/{SERVICE}/{name}".encode(): method for name, method in of_protocol.items()}
    found[f"/{HEALTH}/Check".encode()] = Unary(health_pb2.HealthCheckRequest, health.check)
    found[f"/{HEALTH}/Watch".encode()] = health
    found[f"/{REFLECTION}/ServerReflectionInfo".encode()] = Reflection((SERVICE, HEALTH, REFLECTION))
    return found


class UnknownService(BadRequest):
    """A health check of what is not here."""

    reason = "UnknownService"
    status, code = 404, Status.NOT_FOUND.name


def parsed(kind: Any, content: bytes) -> Any:
    """Return a message. Raises BadRequest."""
    try:
        return kind.FromString(content)
    except DecodeError as error:
        raise BadRequest(f"the message is no {kind.DESCRIPTOR.name}") from error


def check_only(call: Call) -> None:
    """Raise BadRequest for a second message of a call that has one."""
    if call.messages > 1:
        raise BadRequest("the call takes one message; more came")
