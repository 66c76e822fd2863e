"""Several processes on the same ports. One event loop is one CPU, and a small model is mostly event loop.

The kernel deals connections out among listeners of one port (SO_REUSEPORT). Processes begin to listen together, once
each has loaded and tried the model. One that dies is started again, while the others go on.
"""

import os
import signal
import socket
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from time import monotonic
from typing import Final, NoReturn

from trimtab_runtime.config import RuntimeConfig
from trimtab_runtime.descent import end_with
from trimtab_runtime.logs import complain, say
from trimtab_runtime.server.metrics import all_started, tallies_for
from trimtab_runtime.server.place import Place, bind

_HEARD: Final = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGCHLD})
_FIRST_DELAY: Final = 0.1  # seconds until a process that died is started again, doubled with each time
_LONGEST_DELAY: Final = 30.0
_LONG_LIFE: Final = 60.0  # seconds after which an earlier death says nothing any more

_claims: Final[list[socket.socket]] = []  # open for as long as the process lives

Work = Callable[[RuntimeConfig, Place], None]


def run_workers(config: RuntimeConfig, models: int, work: Work) -> int:
    """Run `work` in as many processes as the configuration says, each with all models, and return the exit code.

    A process that fails before all are ready ends the others, with its code: what keeps it from serving would keep
    them all. To be called before anything has threads: processes are forked.
    """
    rest = _reserved(config.host, config.rest_port)
    grpc = _reserved(config.host, config.grpc_port) if "grpc" in config.protocols else None
    ports = replace(config, rest_port=_port(rest), grpc_port=_port(grpc) if grpc else config.grpc_port)
    return _Supervisor(ports, models, work).run()


class _Supervisor:
    def __init__(self, config: RuntimeConfig, models: int, work: Work) -> None:
        self._config = config
        self._work = work
        self._tallies = tallies_for(config.workers, models)
        self._running: dict[int, int] = {}  # processes by their pids
        self._since = [0.0] * config.workers
        self._delays = [_FIRST_DELAY] * config.workers
        self._due: dict[int, float] = {}
        self._is_ending = False
        self._code = 0

    def run(self) -> int:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # who started us may have it ignored
        signal.pthread_sigmask(signal.SIG_BLOCK, _HEARD)
        for process in range(self._config.workers):
            self._start(process)
        while self._running or not self._is_ending:
            self._hear()
        return self._code

    def _start(self, process: int) -> None:
        self._since[process] = monotonic()
        parent = os.getpid()
        pid = os.fork()
        if pid == 0:
            self._become(process, parent)
        self._running[pid] = process

    def _start_again(self, process: int) -> None:
        try:
            self._start(process)
        except OSError as error:  # too many processes, no memory: the others go on
            complain("no process could be started", error)
            self._wait(process)

    def _wait(self, process: int) -> float:
        """Have a process started again later, and return in how many seconds."""
        delay = self._delays[process]
        self._delays[process] = min(2 * delay, _LONGEST_DELAY)
        self._due[process] = monotonic() + delay
        return delay

    def _become(self, process: int, parent: int) -> NoReturn:
        """Be a process that serves."""
        code = 1
        try:
            end_with(parent)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _HEARD)
            self._work(self._config, Place(self._tallies, process, shares_ports=True))
            code = 0
        except SystemExit as ending:
            code = ending.code if isinstance(ending.code, int) else 1
        except BaseException:
            traceback.print_exc()
        sys.stderr.flush()
        os._exit(code)

    def _hear(self) -> None:
        heard = signal.sigtimedwait(_HEARD, max(0.0, min(self._due.values(), default=monotonic() + 3600) - monotonic()))
        if heard is None:
            for process in [process for process, at in self._due.items() if at <= monotonic()]:
                del self._due[process]
                self._start_again(process)
        elif heard.si_signo == signal.SIGCHLD:
            while (ended := _next_ended()) is not None:
                if ended[0] in self._running:  # else an orphan of the container, whose first process we are
                    self._ended(self._running.pop(ended[0]), ended[1])
        else:
            self._end(heard.si_signo)

    def _end(self, signum: int) -> None:
        self._is_ending = True
        self._due.clear()
        for pid in self._running:
            with suppress(ProcessLookupError):
                os.kill(pid, signum)

    def _ended(self, process: int, code: int) -> None:
        if self._is_ending:
            self._code = self._code or code
        elif not all_started(self._tallies[0]):
            self._code = code or 1
            self._end(signal.SIGTERM)
        else:
            if monotonic() - self._since[process] > _LONG_LIFE:
                self._delays[process] = _FIRST_DELAY
            delay = self._wait(process)
            say("a process died; another takes its place", process=process, code=code, inSeconds=delay)


def _next_ended() -> tuple[int, int] | None:
    """Return the pid and the exit code (128 and the signal's number, as shells have it) of a process that ended."""
    try:
        pid, status = os.waitpid(-1, os.WNOHANG)
    except ChildProcessError:
        return None
    code = os.waitstatus_to_exitcode(status) if pid else 0
    return (pid, code if code >= 0 else 128 - code) if pid else None


def _reserved(host: str, port: int) -> socket.socket:
    """Take a port without listening, so that it stays ours while no process listens. Raises OSError if it is taken."""
    if port:
        _claim(port)
        bind(host, port, shared=False).close()
    return bind(host, port, shared=True)


def _claim(port: int) -> None:
    """Keep another server from sharing a port with us: its processes could, as long as nobody listens.

    A name of an abstract socket is of this network namespace, as ports are, and goes with the process.
    """
    if sys.platform == "linux":
        claim = socket.socket(socket.AF_UNIX)
        claim.bind(f"\0trimtab-port-{port}")
        _claims.append(claim)


def _port(taken: socket.socket) -> int:
    return int(taken.getsockname()[1])
