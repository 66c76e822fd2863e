"""Explanations, which others make: a request goes on to an explainer, and its answer comes back as it is.

Explaining asks the model thousands of times, so it never happens in this process. The explainer is a pod of its own,
or a process that is started with the first request, takes what CPU the server leaves, and ends with it.
"""

import asyncio
import http.client
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from trimtab_runtime.dataplane import DataPlane
from trimtab_runtime.logs import say
from trimtab_runtime.server.answers import Answer, text_answer
from trimtab_runtime.server.handling import read_body, response

_AT_ONCE: Final = 8
_LONGEST: Final = 3600.0  # seconds; the explainer has a limit of its own
_PASSED: Final = ("content-type", "inference-header-content-length")
_RETURNED: Final = ("content-type", "retry-after")
_STOP_SECONDS: Final = 2.0
_NONE: Final = "this server has no explainer; set TRIMTAB_EXPLAINER to process, or to the URL of a trimtab-explainer"


class ExplainerAway(Exception):
    """No explainer answers."""


class OwnExplainer:
    """An explainer as a process beside this one, started when it is asked for and does not run."""

    def __init__(self, model_dir: Path, name: str, revision: str) -> None:
        self._settings = {"MODEL_DIR": str(model_dir), "MODEL_NAME": name, "REVISION": revision, "THREADS": "1"}
        self._settings |= {"HOST": "127.0.0.1", "EXPLAINER_PORT": "0", "EXPLAINER_PARENT": str(os.getpid())}
        self._process: subprocess.Popen[bytes] | None = None
        self._port: asyncio.Future[bytes] | None = None

    async def address(self) -> tuple[str, int]:
        """Return where it listens, once it does. Raises ExplainerAway where it ends before."""
        if self._process is None or self._port is None or self._process.poll() is not None:
            self._process, self._port = self._start()
        told = await asyncio.shield(self._port)
        if not told:
            raise ExplainerAway("the explainer could not start; the server's log has the cause")
        return "127.0.0.1", int(told)

    def stop(self) -> None:
        """End it."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()

    def _start(self) -> "tuple[subprocess.Popen[bytes], asyncio.Future[bytes]]":
        """Start the process, from the main thread: the kernel ends it with the thread that started it.

        It writes its port into a pipe, which is closed without one where it ends.
        """
        reader, writer = os.pipe()
        settings = {**self._settings, "EXPLAINER_DESCRIPTOR": str(writer)}
        environ = {**os.environ, **{f"TRIMTAB_{name}": value for name, value in settings.items()}}
        process = subprocess.Popen([sys.executable, "-m", "trimtab_explainer"], env=environ, pass_fds=[writer])
        os.close(writer)
        say("explainer started", pid=process.pid)
        return process, asyncio.get_running_loop().run_in_executor(None, _read, reader)


def _read(descriptor: int) -> bytes:
    with os.fdopen(descriptor, "rb") as pipe:
        return pipe.read()


class Explaining:
    """Passes requests on, a few at a time."""

    def __init__(self, explainer: str | None, plane: DataPlane, model_dir: Path) -> None:
        is_own = explainer == "process"
        self._own = OwnExplainer(model_dir, plane.name, plane.version) if is_own else None
        self._url = None if is_own else explainer
        self._intake = plane.intake
        self._threads = ThreadPoolExecutor(_AT_ONCE, "explaining")

    @property
    def is_there(self) -> bool:
        """Tell whether there is an explainer to ask."""
        return self._own is not None or self._url is not None

    def routes(self) -> list[Route]:
        """Return the routes of explanations."""
        paths = ["/explain"]
        for version in ("", "/versions/{version}"):
            paths += ["/v2/models/{model}" + version + "/explain", "/v1/models/{model}" + version + ":explain"]
        return [Route(path, self._explain, methods=["POST"]) for path in paths]

    def close(self) -> None:
        """End the process, if there is one."""
        if self._own is not None:
            self._own.stop()
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _explain(self, request: Request) -> Response:
        if not self.is_there:
            return response(text_answer(404, _NONE))
        body = await read_body(request, self._intake)
        headers = {name: request.headers[name] for name in _PASSED if name in request.headers}
        path = f"{request.url.path}?{request.url.query}"
        loop = asyncio.get_running_loop()
        try:
            address = await self._address()
            return response(await loop.run_in_executor(self._threads, self._ask, address, path, body, headers))
        except ExplainerAway as error:
            return response(text_answer(503, str(error), (("retry-after", "5"),)))

    async def _address(self) -> tuple[str, int]:
        if self._own is not None:
            return await self._own.address()
        parts = urlsplit(self._url or "")
        return parts.hostname or "", parts.port or 80

    def _ask(self, address: tuple[str, int], path: str, body: bytes, headers: dict[str, str]) -> Answer:
        connection = http.client.HTTPConnection(*address, timeout=_LONGEST)
        try:
            connection.request("POST", path, body, headers)
            found = connection.getresponse()
            returned = tuple((name, value) for name in _RETURNED if (value := found.getheader(name)) is not None)
            return Answer(found.status, found.read(), returned)
        except (OSError, http.client.HTTPException) as error:
            raise ExplainerAway(f"the explainer does not answer ({error}); the model serves on") from error
        finally:
            connection.close()
