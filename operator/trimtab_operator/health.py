"""Health and metrics of the operator over HTTP: /healthz (the loop answers), /readyz, /metrics."""

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest


async def serve_health(port: int, registry: CollectorRegistry) -> web.AppRunner:
    """Start the server. Readiness does not hang on leadership: an operator that waits for the Lease is well."""

    async def healthy(_: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def metrics(_: web.Request) -> web.Response:
        return web.Response(body=generate_latest(registry), headers={"Content-Type": CONTENT_TYPE_LATEST})

    app = web.Application()
    app.add_routes([web.get("/healthz", healthy), web.get("/readyz", healthy), web.get("/metrics", metrics)])
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, port=port).start()
    return runner
