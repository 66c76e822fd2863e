"""Answers of OpenAI's completions and chat completions, whole and as events of a stream.

Source: OpenAI's API reference (the completion object, the chat completion object and chunk object).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from trimtab_runtime.generation.answering import Answering, Piece
from trimtab_runtime.generation.sampling import Chosen, Likely
from trimtab_runtime.generation.words import Words


@dataclass(slots=True)
class Choice:
    """One answer, as far as it has come."""

    texts: list[str] = field(default_factory=list)
    offsets: list[int] = field(default_factory=list)  # of each token, in the text
    chosen: list[Chosen] = field(default_factory=list)
    ended: str | None = None
    length: int = 0

    def add(self, piece: Piece) -> None:
        """Take what came next."""
        if piece.chosen is not None:
            self.offsets.append(self.length)
            self.chosen.append(piece.chosen)
        self.texts.append(piece.text)
        self.length += len(piece.text)
        self.ended = piece.ended


def usage(answers: Sequence[Answering], choices: int) -> dict[str, Any]:
    """Return how many tokens a request took: a prompt counts once, however many choices it has."""
    prompt = sum(len(item.asked.prompt) for item in answers[::choices])
    cached = sum(item.cached for item in answers[::choices])
    answered = sum(item.count for item in answers)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": answered,
        "total_tokens": prompt + answered,
        "prompt_tokens_details": {"cached_tokens": cached},
    }


class Form:
    """How one request is answered: `made` is the second it began, in Unix time."""

    kind = ""
    chunk_kind = ""

    def __init__(self, words: Words, name: str, identity: str, made: int, logprobs: bool) -> None:
        self._words = words
        self._head = {"id": identity, "created": made, "model": name}
        self._logprobs = logprobs
        self._given: dict[int, int] = {}  # characters of each answer that a stream has given out

    @property
    def tells_tokens(self) -> bool:
        """Return whether an event is wanted for each token, also where it brings no text."""
        return self._logprobs

    def whole(self, choices: Sequence[Choice], used: dict[str, Any]) -> dict[str, Any]:
        """Return the answer to a request that did not ask for a stream."""
        content = [self._choice(index, choice) for index, choice in enumerate(choices)]
        return {**self._head, "object": self.kind, "choices": content, "usage": used}

    def opening(self, choices: int) -> list[dict[str, Any]]:
        """Return the events before the first token."""
        return []

    def chunk(self, index: int, piece: Piece) -> dict[str, Any]:
        """Return the event of a piece."""
        return self._event([self._part(index, piece)])

    def closing(self, used: dict[str, Any]) -> dict[str, Any]:
        """Return the event that tells what a stream took."""
        return {**self._event([]), "usage": used}

    def _event(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {**self._head, "object": self.chunk_kind, "choices": choices}

    def _choice(self, index: int, choice: Choice) -> dict[str, Any]:
        raise NotImplementedError

    def _part(self, index: int, piece: Piece) -> dict[str, Any]:
        raise NotImplementedError

    def _spelled(self, token: int) -> str:
        return self._words.decode([token])


class CompletionForm(Form):
    """Of /v1/completions."""

    kind = chunk_kind = "text_completion"

    def _choice(self, index: int, choice: Choice) -> dict[str, Any]:
        return self._told(index, "".join(choice.texts), choice.chosen, choice.offsets, choice.ended)

    def _part(self, index: int, piece: Piece) -> dict[str, Any]:
        at = self._given.get(index, 0)
        self._given[index] = at + len(piece.text)
        return self._told(index, piece.text, [piece.chosen] if piece.chosen else [], [at], piece.ended)

    def _told(
        self, index: int, text: str, chosen: Sequence[Chosen], offsets: Sequence[int], ended: str | None
    ) -> dict[str, Any]:
        logprobs = self._listed(chosen, offsets) if self._logprobs else None
        return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": ended}

    def _listed(self, chosen: Sequence[Chosen], offsets: Sequence[int]) -> dict[str, Any]:
        return {
            "tokens": [self._spelled(item.token) for item in chosen],
            "token_logprobs": [item.logprob for item in chosen],
            "top_logprobs": [self._likeliest(item) for item in chosen],
            "text_offset": list(offsets[: len(chosen)]),
        }

    def _likeliest(self, item: Chosen) -> dict[str, float]:
        """Return the likeliest tokens, and the one that was taken, also where it is none of them."""
        found = {self._spelled(other.token): other.logprob for other in item.likeliest}
        return {self._spelled(item.token): item.logprob or 0.0, **found} if item.likeliest else found


class ChatForm(Form):
    """Of /v1/chat/completions."""

    kind, chunk_kind = "chat.completion", "chat.completion.chunk"

    def opening(self, choices: int) -> list[dict[str, Any]]:
        """Say first who speaks."""
        delta = {"role": "assistant", "content": ""}
        return [self._event([_delta(index, delta, None, None)]) for index in range(choices)]

    def _choice(self, index: int, choice: Choice) -> dict[str, Any]:
        message = {"role": "assistant", "content": "".join(choice.texts), "refusal": None}
        logprobs = self._listed(choice.chosen)
        return {"index": index, "message": message, "logprobs": logprobs, "finish_reason": choice.ended}

    def _part(self, index: int, piece: Piece) -> dict[str, Any]:
        delta = {"content": piece.text} if piece.text else {}
        return _delta(index, delta, self._listed([piece.chosen] if piece.chosen else []), piece.ended)

    def _listed(self, chosen: Sequence[Chosen]) -> dict[str, Any] | None:
        if not self._logprobs:
            return None
        content = [
            {
                **self._likely(Likely(item.token, item.logprob or 0.0)),
                "top_logprobs": [*map(self._likely, item.likeliest)],
            }
            for item in chosen
        ]
        return {"content": content, "refusal": None}

    def _likely(self, item: Likely) -> dict[str, Any]:
        text = self._spelled(item.token)
        piece = self._words.piece(item.token)
        return {"token": text, "logprob": item.logprob, "bytes": None if piece is None else list(piece)}


def _delta(index: int, delta: dict[str, Any], logprobs: dict[str, Any] | None, ended: str | None) -> dict[str, Any]:
    return {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": ended}
