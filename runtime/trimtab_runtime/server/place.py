"""A process's place among those that make up a server."""

import socket
from dataclasses import dataclass

from trimtab_runtime.tallies import Tallies


@dataclass(frozen=True, slots=True)
class Place:
    """Which of the processes it is, where all of them count, and whether they listen on the same ports.

    There are tallies for each model; the first also have what is counted of a process.
    """

    tallies: tuple[Tallies, ...]
    process: int = 0
    shares_ports: bool = False


def bind(host: str, port: int, shared: bool) -> socket.socket:
    """Return a socket with this address that does not listen yet; others may have the same where it is `shared`."""
    family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    bound = socket.socket(family, kind)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, shared)
    bound.bind(address)
    return bound
