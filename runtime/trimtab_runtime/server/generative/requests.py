"""Requests of OpenAI's completions and chat completions, checked, and what they ask of a model.

Source: OpenAI's API reference (completions, chat/completions). Beyond it, as vLLM has them: top_k, min_p,
repetition_penalty, min_tokens, ignore_eos.
"""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Annotated, Any, ClassVar, Final, Literal, NamedTuple, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from trimtab_runtime.generation.answering import Asked
from trimtab_runtime.generation.folder import Defaults
from trimtab_runtime.generation.sampling import Sampling
from trimtab_runtime.generation.words import Words
from trimtab_runtime.protocol.errors import BadRequest

MOST_CHOICES: Final = 16
_MOST_STOPS: Final = 16
_GREEDY: Final = 1e-5  # temperatures below it leave one token anyway
_COMPLETION_TOKENS: Final = 16  # of an answer where a completion does not say, as OpenAI has it

Kind = TypeVar("Kind", bound=BaseModel)
_Text = Annotated[str, Field(min_length=1)]
_Tokens = Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)]


class _Strict(BaseModel):
    """What is null is as if it were not there, and so are fields that change nothing here with these values."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    _harmless: ClassVar[Mapping[str, tuple[Any, ...]]] = MappingProxyType({})

    @model_validator(mode="before")
    @classmethod
    def _plain(cls, content: Any) -> Any:
        if not isinstance(content, dict):
            return content
        return {
            name: value
            for name, value in content.items()
            if value is not None and not cls._changes_nothing(name, value)
        }

    @classmethod
    def _changes_nothing(cls, name: str, value: Any) -> bool:
        return name in cls._harmless and (not cls._harmless[name] or value in cls._harmless[name])


class StreamOptions(_Strict):
    include_usage: bool = False


class _Request(_Strict):
    """What both kinds have."""

    _harmless: ClassVar[Mapping[str, tuple[Any, ...]]] = MappingProxyType(
        {
            **dict.fromkeys(("user", "metadata", "store", "service_tier", "prompt_cache_key", "safety_identifier"), ()),
            **{"tools": ([],), "tool_choice": ("none", "auto"), "parallel_tool_calls": (), "modalities": (["text"],)},
            **{"functions": ([],), "response_format": ({"type": "text"},), "echo": (False,)},
        }
    )

    model: str | None = None
    max_tokens: int | None = Field(default=None, ge=1)
    min_tokens: int = Field(default=0, ge=0)
    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, ge=0, le=1)
    top_k: int | None = Field(default=None, ge=-1)
    min_p: float = Field(default=0, ge=0, le=1)
    n: int = Field(default=1, ge=1, le=MOST_CHOICES)
    seed: int | None = None
    stop: str | list[_Text] | None = None
    stream: bool = False
    stream_options: StreamOptions | None = None
    repetition_penalty: float | None = Field(default=None, gt=0, le=10)
    presence_penalty: float = Field(default=0, ge=-2, le=2)
    frequency_penalty: float = Field(default=0, ge=-2, le=2)
    logit_bias: dict[int, Annotated[float, Field(ge=-100, le=100)]] | None = None
    ignore_eos: bool = False

    @property
    def stops(self) -> tuple[str, ...]:
        """Return the texts that end an answer. Raises BadRequest for too many."""
        found = () if not self.stop else (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)
        if len(found) > _MOST_STOPS:
            raise BadRequest(f"stop has {len(found)} texts; at most {_MOST_STOPS} are taken")
        return found


class Completion(_Request):
    """The body of /v1/completions."""

    prompt: str | list[str] | _Tokens | list[_Tokens]
    logprobs: int | None = Field(default=None, ge=0, le=20)
    best_of: int | None = None


class TextPart(_Strict):
    type: Literal["text"]
    text: str


class Message(_Strict):
    """A message. One of an answer that was given before may be sent back as it was."""

    _harmless: ClassVar[Mapping[str, tuple[Any, ...]]] = MappingProxyType({"tool_calls": ([],), "annotations": ([],)})

    role: _Text
    content: str | list[TextPart] = ""
    name: str | None = None

    @model_validator(mode="after")
    def _says_something(self) -> "Message":
        if self.role != "assistant" and "content" not in self.model_fields_set:
            raise ValueError("content: Field required")
        return self

    def plain(self) -> dict[str, Any]:
        """Return the message as templates have it."""
        content = self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)
        return {"role": self.role, "content": content, **({"name": self.name} if self.name else {})}


class Chat(_Request):
    """The body of /v1/chat/completions."""

    messages: list[Message] = Field(min_length=1)
    max_completion_tokens: int | None = Field(default=None, ge=1)
    logprobs: bool = False
    top_logprobs: int = Field(default=0, ge=0, le=20)


class Generate(_Strict):
    """The body of /v2/models/M/generate, of the Open Inference Protocol's extension for generation."""

    text_input: _Text
    id: str | None = None
    parameters: dict[str, Any] = Field(default_factory=dict)


class Prompts(NamedTuple):
    """What is to be answered: every prompt, for each choice that is wanted of it."""

    asked: list[Asked]
    is_stream: bool
    tells_usage: bool


class Reader:
    """Turns requests into what they ask of one model; `most` tokens where a chat does not say."""

    def __init__(self, words: Words, defaults: Defaults, vocabulary: int, most: int, longest: int) -> None:
        self._words = words
        self._defaults = defaults
        self._vocabulary = vocabulary
        self._most = most
        self._longest = longest

    def completion(self, request: Completion) -> Prompts:
        """Return what a completion asks for. Raises BadRequest."""
        if request.best_of not in (None, request.n):
            raise BadRequest("best_of has to be n: answers are not ranked here")
        prompts = self._tokens(request.prompt)
        most = request.max_tokens or _COMPLETION_TOKENS
        return self._prompts(request, prompts, lambda prompt: most, request.logprobs)

    def chat(self, request: Chat) -> Prompts:
        """Return what a chat asks for. Raises BadRequest."""
        if request.top_logprobs and not request.logprobs:
            raise BadRequest("top_logprobs needs logprobs: true")
        messages = [message.plain() for message in request.messages]
        prompt = tuple(self._words.encode_chat(messages, self._longest))
        most = request.max_completion_tokens or request.max_tokens
        logprobs = request.top_logprobs if request.logprobs else None
        return self._prompts(request, [prompt], lambda prompt: most or self._rest(prompt), logprobs)

    def generate(self, request: Generate, is_stream: bool) -> Prompts:
        """Return what a call of the Open Inference Protocol asks for: its parameters are those of a completion."""
        known = set(Completion.model_fields) - {"model", "prompt", "n", "stream", "stream_options", "logprobs"}
        if unknown := sorted(set(request.parameters) - known):
            raise BadRequest(f"there is no parameter {unknown[0]}; known are {', '.join(sorted(known))}")
        given = {"prompt": request.text_input, "stream": is_stream, **request.parameters}
        found = _checked(lambda: Completion.model_validate(given))
        prompts = self._tokens(found.prompt)
        return self._prompts(found, prompts, lambda prompt: found.max_tokens or self._rest(prompt), None)

    def _rest(self, prompt: Sequence[int]) -> int:
        return max(1, min(self._most, self._longest - len(prompt)))

    def _tokens(self, prompt: str | list[str] | list[int] | list[list[int]]) -> list[tuple[int, ...]]:
        """Return the tokens of each prompt; a list of numbers is one."""
        is_one = isinstance(prompt, str) or (prompt and isinstance(prompt[0], int))
        listed: list[Any] = [prompt] if is_one else list(prompt)
        if not 0 < len(listed) <= MOST_CHOICES:
            raise BadRequest(f"there are {len(listed)} prompts; from 1 to {MOST_CHOICES} are answered at once")
        found = [tuple(self._words.encode(item, self._longest) if isinstance(item, str) else item) for item in listed]
        for tokens in found:
            self._check_tokens("prompt", tokens)
        return found

    def _check_tokens(self, where: str, tokens: Sequence[int]) -> None:
        if tokens and not (min(tokens) >= 0 and max(tokens) < self._vocabulary):
            raise BadRequest(f"{where} has tokens that are not in the vocabulary, which has {self._vocabulary}")

    def _prompts(self, request: _Request, prompts: list[tuple[int, ...]], most: Any, logprobs: int | None) -> Prompts:
        if len(prompts) * request.n > MOST_CHOICES:
            raise BadRequest(f"{len(prompts)} prompts with n {request.n} are too many; {MOST_CHOICES} answers at once")
        if request.stream_options is not None and not request.stream:
            raise BadRequest("stream_options needs stream: true")
        self._check_tokens("logit_bias", list(request.logit_bias or ()))
        asked = [
            Asked(
                prompt=prompt,
                most=most(prompt),
                least=min(request.min_tokens, most(prompt)),
                stops=request.stops,
                ignores_end=request.ignore_eos,
                sampling=self._sampling(request, logprobs, choice),
            )
            for prompt in prompts
            for choice in range(request.n)
        ]
        tells_usage = bool(request.stream_options and request.stream_options.include_usage)
        return Prompts(asked, request.stream, tells_usage)

    def _sampling(self, request: _Request, logprobs: int | None, choice: int) -> Sampling:
        defaults = self._defaults
        temperature = defaults.temperature if request.temperature is None else request.temperature
        return Sampling(
            temperature=0.0 if temperature < _GREEDY else temperature,
            top_p=defaults.top_p if request.top_p is None else request.top_p,
            top_k=defaults.top_k if request.top_k is None else max(0, request.top_k),
            min_p=request.min_p,
            seed=None if request.seed is None else (request.seed + choice) % (1 << 63),
            repetition_penalty=request.repetition_penalty or defaults.repetition_penalty,
            presence_penalty=request.presence_penalty,
            frequency_penalty=request.frequency_penalty,
            bias=request.logit_bias or {},
            logprobs=logprobs,
        )


def read_request(kind: type[Kind], body: bytes) -> Kind:
    """Parse a body. Raises BadRequest with the field and what it has to be."""
    return _checked(lambda: kind.model_validate_json(body))


def _checked(read: Callable[[], Kind]) -> Kind:
    try:
        return read()
    except ValidationError as error:
        raise BadRequest(_explained(error)) from None


def _explained(error: ValidationError) -> str:
    """Say what is wrong with the first field that is, of which pydantic may tell several ways to be right."""
    first = error.errors(include_url=False, include_input=False)[0]
    place = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        return f"{place} is not known here; leave it out"
    text = str(first["msg"]).removeprefix("Value error, ")
    return f"{place}: {text}" if place else text
