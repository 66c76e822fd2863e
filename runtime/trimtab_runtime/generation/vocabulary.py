"""What tokens are made of, as `tokenizer.json` tells, where it spells tokens byte by byte (GPT-2 and most since)."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import orjson

_LONGEST: Final = 256  # characters of a token, where a tokenizer does not tell


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """`longest` is the characters of the longest token; `pieces` are the bytes of each, where they are told.

    `begins` are the tokens that a text begins with: BOS, in models that know it.
    """

    longest: int = _LONGEST
    pieces: tuple[bytes, ...] | None = None
    begins: tuple[int, ...] = ()

    def piece(self, token: int) -> bytes:
        """Return the bytes of a token; what is not in the vocabulary has none."""
        return self.pieces[token] if self.pieces is not None and token < len(self.pieces) else b""


def read_vocabulary(folder: Path) -> Vocabulary:
    """Read a tokenizer. What it does not tell, or tells in another way, is unknown."""
    try:
        content = orjson.loads((folder / "tokenizer.json").read_bytes())
        found = content["model"]["vocab"]
        words = dict(found) if isinstance(found, dict) else {word: at for at, (word, *_) in enumerate(found)}
        added = content.get("added_tokens") or []
        longest = max(len(word) for word in [*words, *(item["content"] for item in added)])
        pieces = _pieces(words, added) if _is_byte_level(content.get("decoder")) else None
        return Vocabulary(longest, pieces, tuple(_begins(content.get("post_processor"))))
    except (OSError, orjson.JSONDecodeError, KeyError, TypeError, ValueError):
        return Vocabulary()


def _is_byte_level(decoder: Any) -> bool:
    if not isinstance(decoder, dict):
        return False
    inside = decoder.get("decoders") or []
    return decoder.get("type") == "ByteLevel" or any(_is_byte_level(item) for item in inside)


def _begins(processor: Any) -> Iterator[int]:
    """Yield the special tokens that a template puts before a text."""
    if not isinstance(processor, dict):
        return
    for inside in processor.get("processors") or []:
        yield from _begins(inside)
    for part in processor.get("single") or []:
        if "SpecialToken" not in part:
            return
        yield from processor["special_tokens"][part["SpecialToken"]["id"]]["ids"]


def _pieces(words: dict[str, int], added: list[dict[str, Any]]) -> tuple[bytes, ...]:
    """Return the bytes of each token; special ones are no text."""
    alphabet = dict(_alphabet())
    found = {
        at: bytes(alphabet[letter] for letter in word) if all(letter in alphabet for letter in word) else word.encode()
        for word, at in words.items()
    }
    found |= {item["id"]: b"" if item.get("special") else str(item["content"]).encode() for item in added}
    return tuple(found.get(at, b"") for at in range(max(found) + 1))


def _alphabet() -> Iterator[tuple[str, int]]:
    """Yield the letter that stands for each byte (Radford et al., 2019): itself, or one beyond where it is no sign."""
    beyond = 256
    for byte in range(256):
        if 33 <= byte <= 126 or 161 <= byte <= 172 or 174 <= byte <= 255:
            yield chr(byte), byte
        else:
            yield chr(beyond), byte
            beyond += 1
