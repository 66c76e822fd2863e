"""All that a server serves: models by name and version, each with what counts its calls and writes its answers."""

from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Final

from trimtab_runtime.dataplane import DataPlane
from trimtab_runtime.intake import Intake
from trimtab_runtime.protocol import rest
from trimtab_runtime.protocol.errors import Busy, UnknownModel
from trimtab_runtime.server.metrics import ServerMetrics

_SHOWN: Final = 8  # models that an error names


class Endpoint:
    """A model as its callers reach it."""

    def __init__(self, plane: DataPlane, metrics: ServerMetrics) -> None:
        self.plane: Final = plane
        self.metrics: Final = metrics
        self.writer: Final = rest.Writer(plane.name, plane.version, plane.package.outputs)


class Endpoints:
    """The models of a server. `name` and `version` are those of what was deployed: the only model, or a collection.

    `ready` turns false when the process begins to drain, and stays so. At least one endpoint; the first of a name
    answers who asks for no version, and the first of all who asks for no model.
    """

    def __init__(self, name: str, version: str, endpoints: Sequence[Endpoint], intake: Intake) -> None:
        self.name: Final = name
        self.version: Final = version
        self.all: Final = tuple(endpoints)
        self.first: Final = self.all[0]
        self.intake: Final = intake
        self.ready = True
        self._found: dict[tuple[str | None, str | None], Endpoint] = {(None, None): self.first}
        for endpoint in self.all:
            self._found.setdefault((endpoint.plane.name, None), endpoint)
            self._found[endpoint.plane.name, endpoint.plane.version] = endpoint

    @property
    def names(self) -> list[str]:
        """Return the names of the models, each once."""
        return list(dict.fromkeys(endpoint.plane.name for endpoint in self.all))

    async def is_up(self) -> bool:
        """Tell whether requests can be answered now."""
        return self.ready

    def check_room(self, timeout: float | None) -> None:
        """Raise Busy where no model takes a request of who waits so many seconds, so that none is read in vain."""
        for endpoint in self.all[:-1]:
            with suppress(Busy):
                endpoint.plane.check_room(timeout)
                return
        self.all[-1].plane.check_room(timeout)

    def find(self, name: str | None, version: str | None) -> Endpoint:
        """Return a model. Raises UnknownModel where it is not served."""
        found = self._found.get((name, version or None))
        if found is None:
            asked = f"{name} version {version}" if version else name
            raise UnknownModel(f"there is no model {asked}; this server has {self._served()}")
        return found

    def counting(self, name: str | None, version: str | None) -> ServerMetrics:
        """Return what counts the calls of a model.

        Calls of a version that is not there are counted with the first of the name, and of no model with the first.
        """
        found = self._found.get((name, version or None)) or self._found.get((name, None))
        return (found or self.first).metrics

    def versions(self, name: str) -> tuple[str, ...]:
        """Return the versions of a model."""
        return tuple(endpoint.plane.version for endpoint in self.all if endpoint.plane.name == name)

    def describe(self, name: str, version: str | None) -> dict[str, Any]:
        """Return the metadata of a model. Raises UnknownModel."""
        return self.find(name, version).plane.metadata(self.versions(name))

    def _served(self) -> str:
        shown = [f"{item.plane.name} version {item.plane.version}" for item in self.all[:_SHOWN]]
        left = len(self.all) - len(shown)
        return ", ".join([*shown, f"and {left} more"] if left else shown)
