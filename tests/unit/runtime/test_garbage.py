"""A request is freed when it is answered: while the garbage collector looks for such things, all callers wait."""

import asyncio
import gc
import json
from typing import Any

import grpc
import uvicorn
from uvicorn.server import ServerState

from trimtab_runtime.dataplane import DataPlane
from trimtab_runtime.engine.batcher import Batcher, Limits
from trimtab_runtime.engine.costs import Costs
from trimtab_runtime.engine.queueing import Waiting
from trimtab_runtime.intake import Intake
from trimtab_runtime.model.session import load_model
from trimtab_runtime.protocol import oip_pb2, oip_pb2_grpc
from trimtab_runtime.server.endpoints import Endpoint, Endpoints
from trimtab_runtime.server.fast import FastProtocol, Inference
from trimtab_runtime.server.grpc.lean import LeanGrpcServer
from trimtab_runtime.server.metrics import ServerMetrics

Stub: Any = oip_pb2_grpc.GRPCInferenceServiceStub
TENSOR = {"name": "x", "shape": [1, 3], "datatype": "FP32", "data": [1, 2, 3]}
BODY = json.dumps({"inputs": [TENSOR]}).encode()
WRONG = json.dumps({"inputs": [TENSOR | {"shape": [1, 4]}]}).encode()


def left() -> int:
    """Return how many requests are in memory that were not freed."""
    return sum(isinstance(item, Waiting) for item in gc.get_objects())


def settled() -> int:
    """Stop the garbage collector after a last look, and return what other tests have left."""
    gc.collect()
    gc.disable()
    return left()


def endpoints_of(models: Any) -> Endpoints:
    model = load_model(models.scores(), threads=1)
    batcher = Batcher(model.run, Limits(8), Costs((1,), (1e-5,)), in_loop=True)
    endpoint = Endpoint(DataPlane("scores", "1", model, batcher), ServerMetrics("scores", "1"))
    return Endpoints("scores", "1", [endpoint], Intake(1 << 20))


async def ask_rest(port: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for body in [BODY, WRONG] * 20:
        head = f"POST /v2/models/scores/infer HTTP/1.1\r\nHost: here\r\nContent-Length: {len(body)}\r\n\r\n"
        writer.write(head.encode() + body)
        lines = (await reader.readuntil(b"\r\n\r\n")).lower().split(b"\r\n")
        await reader.readexactly(int(next(line for line in lines if b"content-length" in line).split()[1]))
    writer.close()


async def test_a_request_over_rest_is_freed_when_it_is_answered(models: Any) -> None:
    config = uvicorn.Config(lambda: None, log_config=None, access_log=False, lifespan="off", ws="none")
    config.load()
    inference, state, loop = Inference(endpoints_of(models), 3600.0), ServerState(), asyncio.get_running_loop()

    def connection() -> FastProtocol:
        return FastProtocol(
            config=config, server_state=state, app_state={}, _loop=loop, inference=inference, reading_seconds=60.0
        )

    server = await loop.create_server(connection, "127.0.0.1", 0)
    before = settled()
    try:
        await ask_rest(server.sockets[0].getsockname()[1])
        assert left() == before
    finally:
        gc.enable()
        server.close()


async def test_a_call_over_grpc_is_freed_when_it_is_answered(models: Any) -> None:
    server = LeanGrpcServer(endpoints_of(models), "127.0.0.1", 0, False, 3600.0)
    await server.start()
    asked = oip_pb2.ModelInferRequest(model_name="scores")
    asked.inputs.add(name="x", datatype="FP32", shape=[1, 3]).contents.fp32_contents.extend([1, 2, 3])
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        infer = Stub(channel).ModelInfer
        await infer(asked)
        before = settled()
        try:
            for _ in range(20):
                await infer(asked)
            assert left() == before
        finally:
            gc.enable()
    await server.stop(1)
