"""Settings of a program: from flags, then the environment (`TRIMTAB_` before their names), then defaults."""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, TypeVar

from trimtab_api.errors import InvalidSpec

_PREFIX: Final = "TRIMTAB_"
_Number = TypeVar("_Number", int, float)


class Settings:
    """What a person or the operator has set. Methods raise InvalidSpec naming the variable that is wrong."""

    def __init__(self, values: Mapping[str, str]) -> None:
        self._values = values

    def text(self, name: str, default: str) -> str:
        """Return a text; an empty one is none."""
        return self._values.get(_PREFIX + name) or default

    def path(self, name: str) -> Path | None:
        """Return a path, where there is one."""
        text = self.text(name, "")
        return Path(text) if text else None

    def number(self, name: str, default: _Number, low: _Number, high: _Number) -> _Number:
        """Return a number of the kind of the default, within limits."""
        text = self.text(name, str(default))
        try:
            number = type(default)(text)
        except ValueError:
            number = None
        if number is None or not low <= number <= high:
            kind = "a whole number" if isinstance(default, int) else "a number"
            raise InvalidSpec(f"{_PREFIX}{name} is {text!r}; it has to be {kind} from {low} to {high}")
        return number

    def switch(self, name: str, default: int = 0) -> bool:
        """Return whether something is on: 1, or 0."""
        return bool(self.number(name, default, 0, 1))

    def one_of(self, name: str, known: Sequence[str]) -> str:
        """Return a word; the first of those that are known is the default."""
        text = self.text(name, known[0])
        if text not in known:
            raise InvalidSpec(f"{_PREFIX}{name} is {text!r}; it has to be one of {', '.join(known)}")
        return text


def read_settings(
    arguments: Sequence[str], environ: Mapping[str, str], program: str, description: str, known: Mapping[str, str]
) -> Settings:
    """Read the settings of a program; `known` has a line of help for each. Flags win over the environment."""
    if not arguments:
        return Settings(environ)
    parser = argparse.ArgumentParser(program, description=description)
    for name, meaning in known.items():
        flag = "--" + name.lower().replace("_", "-")
        parser.add_argument(flag, dest=name, metavar="VALUE", help=f"{meaning}; also {_PREFIX}{name}")
    given = vars(parser.parse_args(arguments))
    return Settings({**environ, **{_PREFIX + name: value for name, value in given.items() if value is not None}})
