"""Text to tokens and back, as the model's folder has it; and where an answer has to stop."""

import codecs
from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol

import numpy as np
import orjson

from trimtab_api.errors import InvalidPackage
from trimtab_runtime.generation.folder import Folder
from trimtab_runtime.generation.library import genai
from trimtab_runtime.generation.vocabulary import Vocabulary, read_vocabulary
from trimtab_runtime.protocol.errors import BadRequest

_PART: Final = "\ufffd"
_MOST_PARTS: Final = 8  # tokens of a character; more are none


class Words:
    """The tokenizer and the chat template of a folder. Raises InvalidPackage where it has none that can be read."""

    def __init__(self, folder: Folder) -> None:
        try:
            self._tokenizer = genai().Tokenizer(str(folder.path))
        except Exception as error:  # the library has no base for what it raises
            raise InvalidPackage(f"the folder has no tokenizer that can be read: {error}") from error
        self._vocabulary = read_vocabulary(folder.path)

    def encode(self, text: str, most: int | None = None) -> list[int]:
        """Return the tokens of a text that stands alone: with the token that begins one, where the model has it.

        Raises BadRequest for a text that cannot be read, or that has more than `most` tokens for sure.
        """
        return [*self._vocabulary.begins, *self._encoded(text, most)]

    def encode_chat(self, messages: Sequence[dict[str, Any]], most: int | None = None) -> list[int]:
        """Return the tokens of messages as the model was taught to read them; its template begins them.

        Raises BadRequest as `encode` does, and where the template does not take the messages.
        """
        given = orjson.dumps(list(messages)).decode()
        self._check(given, most)
        try:
            text = str(self._tokenizer.apply_chat_template(given))
        except Exception as error:  # as above; a template refuses roles in an order that the model does not know
            raise BadRequest(f"the chat template of this model does not take these messages: {error}") from error
        return self._encoded(text, most)

    def decode(self, tokens: Sequence[int]) -> str:
        """Return the text of tokens; a part of a character is U+FFFD."""
        if self._vocabulary.pieces is not None:
            return b"".join(map(self._vocabulary.piece, tokens)).decode("utf-8", "replace")
        return str(self._tokenizer.decode(np.asarray(tokens, np.int32)))

    def piece(self, token: int) -> bytes | None:
        """Return the bytes of a token, where they are known."""
        if self._vocabulary.pieces is not None:
            return self._vocabulary.piece(token)
        text = self.decode([token])
        return None if _PART in text else text.encode()

    def spelling(self) -> "Spelling":
        """Return what spells an answer token by token."""
        known = self._vocabulary.pieces is not None
        return SpellingByBytes(self._vocabulary) if known else SpellingByTexts(self.decode)

    def _encoded(self, text: str, most: int | None) -> list[int]:
        self._check(text, most)
        return [int(token) for token in self._tokenizer.encode(text)]

    def _check(self, text: str, most: int | None) -> None:
        if "\0" in text or "\\u0000" in text:  # where the library, which is written in C, sees the end
            raise BadRequest("the text has a character U+0000; remove it")
        if most is not None and len(text) > most * self._vocabulary.longest:
            raise BadRequest(f"a text of {len(text)} characters has more than the {most} tokens that are possible here")


class Spelling(Protocol):
    """Spells tokens as they come; what may be a part of a character waits for the rest."""

    def add(self, token: int) -> str:
        """Return what can be read now."""

    def rest(self) -> str:
        """Return what still waits, once no more comes."""


class SpellingByBytes:
    """Spells tokens whose bytes are known."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def add(self, token: int) -> str:
        """Return what can be read now."""
        return self._decoder.decode(self._vocabulary.piece(token))

    def rest(self) -> str:
        """Return what still waits, once no more comes."""
        return self._decoder.decode(b"", final=True)


class SpellingByTexts:
    """Spells tokens of which the library tells texts only.

    A token is spelled with the one before it, as it may begin with a space that is none at the beginning of a text.
    """

    def __init__(self, decode: Callable[[Sequence[int]], str]) -> None:
        self._decode = decode
        self._tokens: list[int] = []  # from the last ones that were spelled on
        self._spelled = 0

    def add(self, token: int) -> str:
        """Return what can be read now."""
        self._tokens.append(token)
        text = self._new()
        if text.endswith(_PART) and len(self._tokens) - self._spelled < _MOST_PARTS:
            return ""
        self._tokens, self._spelled = self._tokens[self._spelled :], len(self._tokens) - self._spelled
        return text

    def rest(self) -> str:
        """Return what still waits, once no more comes."""
        text = self._new() if self._spelled < len(self._tokens) else ""
        self._tokens, self._spelled = [], 0
        return text

    def _new(self) -> str:
        return self._decode(self._tokens)[len(self._decode(self._tokens[: self._spelled])) if self._spelled else 0 :]


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
