"""The gRPC server over grpc.aio: the protocol's service, health and reflection."""

import asyncio
from typing import Any, Final

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from trimtab_runtime.dataplane import EXTENSIONS, SERVER_NAME, SERVER_VERSION
from trimtab_runtime.logs import complain
from trimtab_runtime.protocol import grpc as codec
from trimtab_runtime.protocol import oip_pb2, oip_pb2_grpc
from trimtab_runtime.protocol.errors import RequestError
from trimtab_runtime.protocol.grpc_wire import MAX_MESSAGE, MOST_TEXT
from trimtab_runtime.protocol.request import Spent
from trimtab_runtime.server.endpoints import Endpoints
from trimtab_runtime.server.grpc.services import SERVICE
from trimtab_runtime.server.metrics import Outcome
from trimtab_runtime.server.tls import Certificates
from trimtab_runtime.server.tracing import TRACE_PARENT

_AGE_GRACE_MS: Final = 10_000
_MOST_CALLS: Final = 256  # at once on a connection


class GrpcioServer:
    """A server over models. `drain` says NOT_SERVING; `stop` sends GOAWAY and waits for what is in flight."""

    def __init__(
        self,
        endpoints: Endpoints,
        host: str,
        port: int,
        shares_port: bool,
        max_age_seconds: float,
        certificates: Certificates | None = None,
    ) -> None:
        options = [
            ("grpc.max_connection_age_ms", int(max_age_seconds * 1000)),  # grpc adds its own jitter of 10 %
            ("grpc.max_connection_age_grace_ms", _AGE_GRACE_MS),
            ("grpc.max_receive_message_length", MAX_MESSAGE),
            ("grpc.max_send_message_length", MAX_MESSAGE),
            ("grpc.so_reuseport", int(shares_port)),
            ("grpc.max_concurrent_streams", _MOST_CALLS),
        ]
        self._server = grpc.aio.server(options=options)
        self._health = health.aio.HealthServicer()
        add_service = oip_pb2_grpc.add_GRPCInferenceServiceServicer_to_server
        add_service(_Service(endpoints), self._server)  # type: ignore[no-untyped-call]
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        reflection.enable_server_reflection((SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME), self._server)
        self._address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        self._certificates = certificates
        self.port = port

    async def start(self) -> None:
        if self._certificates is None:  # from here on connections are taken
            self.port = self._server.add_insecure_port(self._address)
        else:
            self.port = self._server.add_secure_port(self._address, _credentials(self._certificates))
        await self._server.start()
        for name in ("", SERVICE):
            await self._health.set(name, health_pb2.HealthCheckResponse.SERVING)

    async def drain(self) -> None:
        await self._health.enter_graceful_shutdown()

    async def stop(self, grace_seconds: float) -> None:
        await self._server.stop(grace_seconds)


def _credentials(certificates: Certificates) -> Any:
    """Return what the common library needs; it does not take a renewed certificate."""
    pair = certificates.key.read_bytes(), certificates.certificate.read_bytes()
    authorities = certificates.client_authorities
    return grpc.ssl_server_credentials(
        [pair],
        root_certificates=authorities.read_bytes() if authorities else None,
        require_client_auth=authorities is not None,
    )


class _Service(oip_pb2_grpc.GRPCInferenceServiceServicer):
    def __init__(self, endpoints: Endpoints) -> None:
        self._endpoints = endpoints

    async def ServerLive(self, request: Any, context: Any) -> Any:
        return oip_pb2.ServerLiveResponse(live=True)

    async def ServerReady(self, request: Any, context: Any) -> Any:
        return oip_pb2.ServerReadyResponse(ready=self._endpoints.ready)

    async def ModelReady(self, request: Any, context: Any) -> Any:
        await self._described(request, context)
        return oip_pb2.ModelReadyResponse(ready=self._endpoints.ready)

    async def ServerMetadata(self, request: Any, context: Any) -> Any:
        return oip_pb2.ServerMetadataResponse(name=SERVER_NAME, version=SERVER_VERSION, extensions=EXTENSIONS)

    async def ModelMetadata(self, request: Any, context: Any) -> Any:
        return oip_pb2.ModelMetadataResponse(**await self._described(request, context))

    async def ModelInfer(self, request: Any, context: Any) -> Any:
        """Answer one inference call; whatever happens becomes a status, and is counted."""
        parent = dict(context.invocation_metadata() or ()).get(TRACE_PARENT)
        metrics = self._endpoints.counting(request.model_name, request.model_version)
        with metrics.request("grpc", "INTERNAL", parent) as outcome:
            try:
                response = await self._infer(request, context.time_remaining(), outcome.spent)
            except asyncio.CancelledError:
                outcome.code = "DEADLINE_EXCEEDED" if _is_late(context) else "CANCELLED"
                raise
            except Exception as error:
                return await _refuse(error, outcome, context)
            outcome.code = "OK"
            return response

    async def _infer(self, request: Any, left: float | None, spent: Spent | None) -> Any:
        plane = self._endpoints.find(request.model_name, request.model_version).plane
        plane.check_room(left)
        asked = codec.read_request(request, plane.inputs)
        if left is not None:
            asked = asked._replace(timeout=left)
        outputs = await plane.infer(asked._replace(spent=spent))
        return codec.write_response(plane.name, plane.version, outputs, asked)

    async def _described(self, request: Any, context: Any) -> dict[str, Any]:
        try:
            return self._endpoints.describe(request.name, request.version)
        except RequestError as error:
            await context.abort(grpc.StatusCode[error.code], str(error))
            raise  # not reached: to abort raises


async def _refuse(error: Exception, outcome: Outcome, context: Any) -> None:
    if isinstance(error, RequestError):
        outcome.code, text = error.code, str(error)
    else:
        outcome.code, text = "INTERNAL", "internal error; the server's log has the cause"
    if outcome.code == "INTERNAL":
        complain("inference failed", error.__cause__ or error)
    await context.abort(grpc.StatusCode[outcome.code], text[:MOST_TEXT])


def _is_late(context: Any) -> bool:
    left = context.time_remaining()
    return left is not None and left <= 0
