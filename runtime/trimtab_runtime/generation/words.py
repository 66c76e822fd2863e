"""Text to tokens and back, as the model's folder has it; and where an answer has to stop."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import orjson

from trimtab_api.errors import InvalidPackage
from trimtab_runtime.generation.folder import Folder
from trimtab_runtime.generation.library import genai
from trimtab_runtime.protocol.errors import BadRequest


class Words:
    """The tokenizer and the chat template of a folder. Raises InvalidPackage where it has none that can be read."""

    def __init__(self, folder: Folder) -> None:
        try:
            self._tokenizer = genai().Tokenizer(str(folder.path))
        except Exception as error:  # the library has no base for what it raises
            raise InvalidPackage(f"the folder has no tokenizer that can be read: {error}") from error

    def encode(self, text: str) -> list[int]:
        """Return the tokens of a text."""
        return [int(token) for token in self._tokenizer.encode(text)]

    def decode(self, tokens: Sequence[int]) -> str:
        """Return the text of tokens."""
        return str(self._tokenizer.decode(np.asarray(tokens, np.int32)))

    def prompt(self, messages: Sequence[dict[str, Any]]) -> str:
        """Return messages as the model was taught to read them. Raises BadRequest where its template takes them not."""
        try:
            return str(self._tokenizer.apply_chat_template(orjson.dumps(list(messages)).decode()))
        except Exception as error:  # as above; a template refuses roles in an order that the model does not know
            raise BadRequest(f"the chat template of this model does not take these messages: {error}") from error

    def stream(self) -> "Spelling":
        """Return what spells an answer token by token."""
        return Spelling(self._tokenizer.create_stream())


class Spelling:
    """Spells tokens as they come; bytes of a character that is not whole yet wait for the rest."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def add(self, token: int) -> str:
        """Return what can be read now."""
        return str(self._stream.decode(token))


class Stopping:
    """Looks for texts that end an answer, and holds back what may be the beginning of one."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = stops
        self._held = ""

    def add(self, text: str) -> tuple[str, bool]:
        """Return what of the answer is certain by now, and whether it is over. The text that ended it is no part."""
        if not self._stops:
            return text, False
        held = self._held + text
        found = min((at for stop in self._stops if (at := held.find(stop)) >= 0), default=-1)
        if found >= 0:
            self._held = ""
            return held[:found], True
        certain = len(held) - max(_begun(held, stop) for stop in self._stops)
        self._held = held[certain:]
        return held[:certain], False

    def rest(self) -> str:
        """Return what was held back, once no more comes."""
        rest, self._held = self._held, ""
        return rest


def _begun(text: str, stop: str) -> int:
    """Return how many characters at the end of a text are the beginning of a stop."""
    return next((count for count in range(min(len(stop) - 1, len(text)), 0, -1) if text.endswith(stop[:count])), 0)
