"""A generative model under one name and version, and the way from its thread to those who wait for answers."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any, Final

from trimtab_runtime.generation.answering import Answering, Asked, Piece
from trimtab_runtime.generation.engine import Engine, Told
from trimtab_runtime.generation.words import Words
from trimtab_runtime.intake import Intake
from trimtab_runtime.protocol.errors import UnknownModel
from trimtab_runtime.server.connections import Served
from trimtab_runtime.server.generative.requests import Reader

EXTENSIONS: Final = ("generate",)
_PLATFORM: Final = "onnxruntime_genai"


class GenerativePlane:
    """What the routes ask for. `ready` turns false when the process begins to drain, and stays so."""

    def __init__(self, name: str, version: str, engine: Engine, words: Words, reader: Reader, intake: Intake) -> None:
        self.name: Final = name
        self.version: Final = version
        self.words: Final = words
        self.reader: Final = reader
        self.intake: Final = intake
        self.ready = True
        self._engine = engine

    def find(self, name: str | None, version: str | None = None) -> None:
        """Raise UnknownModel unless this is the model that is served; a request that names none means it."""
        find(self, name, version)

    async def is_up(self) -> bool:
        """Tell whether requests can be answered now."""
        return self.ready and self._engine.is_alive

    @property
    def names(self) -> list[str]:
        """Return the name of the model."""
        return [self.name]

    def describe(self, name: str, version: str | None) -> dict[str, Any]:
        """Return the metadata of the model. Raises UnknownModel for another."""
        self.find(name, version)
        return described(self.name, self.version, _PLATFORM)

    def answers(self, asked: Sequence[Asked]) -> "Answers":
        """Have answers made. Raises BadRequest and Busy; then none is."""
        return Answers(self._engine, asked)


class Answers:
    """Answers that are being made, and their pieces as they come."""

    def __init__(self, engine: Engine, asked: Sequence[Asked]) -> None:
        self._queue: asyncio.Queue[tuple[int, Piece | Exception]] = asyncio.Queue()
        self.made: list[Answering] = []
        try:
            for index, item in enumerate(asked):
                self.made.append(engine.submit(item, self._taker(index)))
        except Exception:
            self.leave()
            raise

    async def pieces(self) -> AsyncIterator[tuple[int, Piece]]:
        """Yield what comes, with the number of its answer, until all are over. Raises what became of them otherwise."""
        left = len(self.made)
        while left:
            index, piece = await self._queue.get()
            if isinstance(piece, Exception):
                raise piece
            left -= piece.ended is not None
            yield index, piece

    def leave(self) -> None:
        """Want no more: what is not over is not computed."""
        for answering in self.made:
            answering.left = True

    def _taker(self, index: int) -> Any:
        return lambda piece: self._queue.put_nowait((index, piece))


def find(served: Served, name: str | None, version: str | None) -> None:
    """Raise UnknownModel unless this is the model that is served."""
    if name not in (None, served.name) or version not in (None, served.version):
        raise UnknownModel(f"there is no model {name}; this server has {served.name} version {served.version}")


def described(name: str, version: str, platform: str) -> dict[str, Any]:
    """Return metadata of a model that generates, as the Open Inference Protocol words it: text in, text out."""
    text = {"datatype": "BYTES", "shape": [1]}
    return {
        "name": name,
        "versions": [version],
        "platform": platform,
        "inputs": [{"name": "text_input", **text}],
        "outputs": [{"name": "text_output", **text}],
    }


def teller(loop: asyncio.AbstractEventLoop) -> Any:
    """Return what hands pieces over to the event loop, all of a turn at once."""

    def tell(told: Told) -> None:
        loop.call_soon_threadsafe(_deliver, told)

    return tell


def _deliver(told: Told) -> None:
    for answering, piece in told:
        answering.deliver(piece)
