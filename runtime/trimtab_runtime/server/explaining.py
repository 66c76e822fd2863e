"""Explanations, which others make: a request goes on to an explainer, and its answer comes back as it is.

Explaining asks the model thousands of times, so it never happens in this process. The explainer is a pod of its own,
or a process that is started with the first request, takes what CPU the server leaves, and ends with it.
"""

import asyncio
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from httptools import HttpParserError
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from trimtab_runtime.logs import say
from trimtab_runtime.protocol.errors import RequestError
from trimtab_runtime.server.answers import CLIENT_LEFT, Answer, error_answer, text_answer
from trimtab_runtime.server.endpoints import Endpoints
from trimtab_runtime.server.handling import read_body, response
from trimtab_runtime.server.upstream import Answered

_AT_ONCE: Final = 8
_CONNECT_SECONDS: Final = 5.0  # that an answer may take, the explainer knows itself
_LOOK_SECONDS: Final = 0.5  # whether the caller is still there
_PASSED: Final = (b"content-type", b"inference-header-content-length")
_RETURNED: Final = ("content-type", "retry-after")
_STOP_SECONDS: Final = 2.0
_NONE_OF_SEVERAL: Final = "models of a collection are not explained; serve the model by itself, with an explainer"
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
        try:
            process = subprocess.Popen([sys.executable, "-m", "trimtab_explainer"], env=environ, pass_fds=[writer])
        except OSError as error:
            os.close(reader)
            raise ExplainerAway(f"the explainer could not start: {error}") from error
        finally:
            os.close(writer)
        say("explainer started", pid=process.pid)
        return process, asyncio.get_running_loop().run_in_executor(None, _read, reader)


def _read(descriptor: int) -> bytes:
    with os.fdopen(descriptor, "rb") as pipe:
        return pipe.read()


class Explaining:
    """Passes requests on, a few at a time: what waits holds its body. For a collection there is nobody to ask."""

    def __init__(self, explainer: str | None, served: Endpoints, model_dir: Path, is_collection: bool = False) -> None:
        explainer = None if is_collection else explainer
        self._none = _NONE_OF_SEVERAL if is_collection else _NONE
        is_own = explainer == "process"
        self._own = OwnExplainer(model_dir, served.name, served.version) if is_own else None
        self._url = None if is_own else explainer
        self._intake = served.intake
        self._asking = 0

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

    async def _explain(self, request: Request) -> Response:
        if not self.is_there:
            return response(text_answer(404, self._none))
        if self._asking >= _AT_ONCE:
            return _busy(f"{self._asking} explanations are on their way already; try again later")
        self._asking += 1
        try:
            return response(await self._passed(request))
        except ExplainerAway as error:
            return _busy(str(error))
        except ClientDisconnect:
            return Response(status_code=CLIENT_LEFT)
        except RequestError as error:
            return response(error_answer(error))
        finally:
            self._asking -= 1

    async def _passed(self, request: Request) -> Answer:
        body = await read_body(request, self._intake)
        try:
            self._intake.take(len(body))
            asking = asyncio.create_task(_ask(await self._address(), _head(request, len(body)) + body))
            while not (await asyncio.wait({asking}, timeout=_LOOK_SECONDS))[0]:
                if await request.is_disconnected():
                    asking.cancel()
            return Answer(CLIENT_LEFT, b"") if asking.cancelled() else asking.result()
        finally:
            self._intake.give(len(body))

    async def _address(self) -> tuple[str, int]:
        if self._own is not None:
            return await self._own.address()
        parts = urlsplit(self._url or "")  # as the configuration has checked it
        return parts.hostname or "", parts.port or 80


def _busy(text: str) -> Response:
    return response(text_answer(503, text, (("retry-after", "5"),)))


def _head(request: Request, length: int) -> bytes:
    """Return the head of the same request for the explainer; the path as it came."""
    scope = request.scope
    target = scope["raw_path"] + (b"?" + scope["query_string"] if scope["query_string"] else b"")
    lines = [b"POST %b HTTP/1.1" % target, b"host: explainer", b"connection: close", b"content-length: %d" % length]
    lines += [b"%b: %b" % (name, value) for name, value in request.headers.raw if name in _PASSED]
    return b"\r\n".join([*lines, b"", b""])


async def _ask(address: tuple[str, int], request: bytes) -> Answer:
    """Send a request and return the answer. Raises ExplainerAway. A cancellation ends the connection."""
    found, writer = Answered(), None
    try:
        reader, writer = await asyncio.wait_for(asyncio.open_connection(*address), _CONNECT_SECONDS)
        writer.write(request)
        while not found.is_whole and (data := await reader.read(1 << 16)):
            found.feed(data)
    except socket.gaierror as error:
        raise ExplainerAway(
            f"there is no explainer ({error}); spec.explainer of the ModelDeployment adds one"
        ) from error
    except (OSError, TimeoutError, HttpParserError) as error:
        raise ExplainerAway(f"the explainer does not answer ({error!r}); the model serves on") from error
    finally:
        if writer is not None:
            writer.transport.abort()
    if not found.is_whole:
        raise ExplainerAway("the explainer ended in the midst of its answer; the model serves on")
    return Answer(found.status, found.body, tuple(item for item in found.headers if item[0] in _RETURNED))
