"""Tokens a second of a language model, for one caller and for many, beside other ways to run the same weights.

`GENERATION=small` is a run of two minutes, which leaves the page as it is.
"""

import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any, Final

import httpx
import numpy as np
import yaml
from figures import Table, ratios, spread
from peer_servers import OURS, Kind, Server

from install import trained

_SIZES: Final = {"full": (3, 64, (1, 4, 16)), "small": (1, 24, (1, 8))}  # rounds, tokens, callers at once
_PROMPT: Final = 48  # words
_LONG: Final = 200
_COMMON: Final = 180
_FEW: Final = 8  # tokens
_CHAT: Final = "/v1/chat/completions"
_WORDS: Final = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
_MODEL: Final = """
import sys, torch, transformers
torch.manual_seed(0)
config = transformers.LlamaConfig(
    vocab_size=512, hidden_size=1024, intermediate_size=2816, num_hidden_layers=8, num_attention_heads=16,
    num_key_value_heads=4, max_position_embeddings=1024, bos_token_id=0, eos_token_id=0, pad_token_id=0,
)
transformers.LlamaForCausalLM(config).save_pretrained(sys.argv[1])
"""
_OURS: Final = replace(
    OURS, path=_CHAT, variables={**OURS.variables, "TRIMTAB_MODEL_NAME": "model", "TRIMTAB_MAX_BATCH_SIZE": "16"}
)
_SINGLE: Final = {**_OURS.variables, "TRIMTAB_DECODER": "single"}


@dataclass(frozen=True, slots=True)
class Way:
    """A way to run a model: a server, on a folder of ONNX Runtime GenAI or of transformers."""

    kind: Kind
    folder: str
    model: str = "model"


@dataclass(frozen=True, slots=True)
class Talked:
    """What callers got: tokens a second of all, milliseconds to the first one, and the server's own per token."""

    rate: float
    first: float
    cost: float


def measure() -> Table:
    """Ask all ways in turns."""
    chosen = os.environ.get("GENERATION", "full")
    rounds, tokens, callers = _SIZES[chosen]
    with ExitStack() as stack:
        place = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        _write_models(place)
        ways = [(way, _started(stack, way, place)) for way in _ways(place)]
        rows = [row for count in callers for row in _rows(ways, count, tokens, rounds)]
        rows += _alike(ways, callers[-1], rounds)
    how = (
        "A Llama of 91 million weights with random values, answers of "
        f"{tokens} tokens to prompts of {_PROMPT} words, in streamed chats; one thread for a model, the caller "
        f"on the other core, {rounds} rounds in turns. Median (smallest to largest). Ratios are by onnxruntime-genai, "
        "one by one, with the same weights, in each round: its generators behind our server (DECODER=single). The last "
        f"rows have answers of {_FEW} tokens to long prompts."
    )
    head = ("weights", "callers", "server", "tokens/s", "by one by one", "ms to the first", "ms of CPU/token")
    return Table(how, head, tuple(rows), kept=chosen == "full")


def _ways(place: Path) -> list[Way]:
    serve = ("{bin}/transformers", "serve", "--host", "127.0.0.1", "--port", "{port}", "--device", "cpu", "{folder}")
    batched = Kind(
        "transformers serve, continuous batching", "transformers", (*serve, "--continuous-batching"), path=_CHAT
    )
    ways = []
    for folder in ("float32", "int4"):
        ways.append(Way(replace(_OURS, shown="Trimtab"), folder))
        ways.append(Way(replace(_OURS, shown="onnxruntime-genai, one by one", variables=_SINGLE), folder))
    return [*ways, Way(batched, "source", str(place / "source"))]


def _write_models(place: Path) -> None:
    """Write the source as transformers has it, and what GenAI's builder makes of it."""
    source = place / "source"
    _run("-c", _MODEL, str(source))
    for path in (trained("counting") / "model").glob("*token*"):
        (source / path.name).write_bytes(path.read_bytes())
    (source / "chat_template.jinja").write_bytes((trained("counting") / "model/chat_template.jinja").read_bytes())
    names = ("input_ids", "attention_mask")
    package = {
        "name": "model",
        "format": "genai",
        "inputs": [{"name": name, "datatype": "INT64", "shape": [-1, -1]} for name in names],
        "outputs": [{"name": "logits", "datatype": "FP32", "shape": [-1, -1, 512]}],
    }
    for folder, precision in (("float32", "fp32"), ("int4", "int4")):
        made = ["-m", str(source), "-i", str(source), "-o", str(place / folder), "-p", precision, "-e", "cpu"]
        _run("-m", "onnxruntime_genai.models.builder", *made, "-c", str(place / "cache"))
        (place / folder / "model.yaml").write_text(yaml.safe_dump(package))


def _run(*arguments: str) -> None:
    done = subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, env={**os.environ, "HF_HUB_OFFLINE": "1"}
    )
    if done.returncode:
        raise RuntimeError(f"{arguments[:2]} failed:\n{done.stdout[-1000:]}{done.stderr[-2000:]}")


def _started(stack: ExitStack, way: Way, place: Path) -> Server:
    server = Server(way.kind, place / way.folder, place / f"{way.folder}-{len(way.kind.shown)}.log", {0})
    stack.callback(server.stop)
    server.wait_for(json.dumps(_body(way, "one", 2)).encode())
    return server


def _rows(ways: list[tuple[Way, Server]], callers: int, tokens: int, rounds: int) -> Iterator[tuple[str, ...]]:
    found: dict[int, list[Talked]] = {at: [] for at in range(len(ways))}
    for count in range(rounds):
        for at, (way, server) in enumerate(ways):
            found[at].append(_talked(way, server, _prompts(callers, _PROMPT, 0, seed=count), tokens))
    for at, (way, _) in enumerate(ways):
        base = next(n for n, (other, _) in enumerate(ways) if "one by one" in other.kind.shown and _same(other, way))
        rates = [item.rate for item in found[at]]
        yield (
            "float32" if way.folder == "source" else way.folder,
            str(callers),
            way.kind.shown,
            spread(rates, digits=0),
            "1" if at == base else spread(ratios(rates, [item.rate for item in found[base]])),
            spread([item.first for item in found[at]], digits=0),
            f"{median(item.cost for item in found[at]):.2f}",
        )


def _alike(ways: list[tuple[Way, Server]], callers: int, rounds: int) -> Iterator[tuple[str, ...]]:
    """Ask with long prompts, which have nothing in common, or their beginning, as what a system is told has."""
    asked = [(way, server) for way, server in ways if way.folder == "int4"]
    found: dict[tuple[int, bool], list[Talked]] = {}
    for count in range(rounds):
        for at, (way, server) in enumerate(asked):
            for common in (False, True):
                prompts = _prompts(callers, _LONG, _COMMON if common else 0, seed=1000 + count)
                found.setdefault((at, common), []).append(_talked(way, server, prompts, _FEW))
    for (at, common), talked in found.items():
        base, rates = found[1, common], [item.rate for item in talked]
        what = f"{_COMMON} of {_LONG} words in common" if common else f"{_LONG} words each"
        yield (
            "int4",
            str(callers),
            f"{asked[at][0].kind.shown}; {what}",
            spread(rates, digits=0),
            "1" if at == 1 else spread(ratios(rates, [item.rate for item in base])),
            spread([item.first for item in talked], digits=0),
            f"{median(item.cost for item in talked):.2f}",
        )


def _same(one: Way, other: Way) -> bool:
    return (one.folder == "int4") == (other.folder == "int4")


def _prompts(callers: int, words: int, common: int, seed: int) -> list[str]:
    random = np.random.default_rng([seed, callers])
    begun = list(random.choice(_WORDS, common))
    return [" ".join([*begun, *random.choice(_WORDS, words - common)]) for _ in range(callers)]


def _talked(way: Way, server: Server, prompts: list[str], tokens: int) -> Talked:
    before, began = server.seconds(), time.perf_counter()
    answers = asyncio.run(_ask_all(way, server, prompts, tokens))
    seconds = time.perf_counter() - began
    answered = sum(count for _, count in answers)
    first = median(first for first, _ in answers)
    return Talked(answered / seconds, first * 1e3, (server.seconds() - before) / answered * 1e3)


async def _ask_all(way: Way, server: Server, prompts: list[str], tokens: int) -> list[tuple[float, int]]:
    limits = httpx.Limits(max_connections=len(prompts))
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{server.port}", timeout=300, limits=limits) as http:
        return await asyncio.gather(*(_ask(http, way, prompt, tokens) for prompt in prompts))


async def _ask(http: httpx.AsyncClient, way: Way, prompt: str, tokens: int) -> tuple[float, int]:
    """Return the seconds to the first token, and how many there were."""
    began, first, count = time.perf_counter(), 0.0, 0
    async with http.stream("POST", _CHAT, json=_body(way, prompt, tokens)) as answer:
        answer.raise_for_status()
        async for line in answer.aiter_lines():
            if not line.startswith("data: {"):
                continue
            event = json.loads(line.removeprefix("data: "))
            if event.get("usage"):
                count = event["usage"]["completion_tokens"]
            if not first and any(choice["delta"].get("content") for choice in event["choices"]):
                first = time.perf_counter() - began
    return first or time.perf_counter() - began, count  # tokens may bring no text


def _body(way: Way, prompt: str, tokens: int) -> dict[str, Any]:
    ours = {"ignore_eos": True} if way.model == "model" else {}
    asked = {"model": way.model, "max_tokens": tokens, "temperature": 0.0, "stream": True}
    return {
        **asked,
        **ours,
        "stream_options": {"include_usage": True},
        "messages": [{"role": "user", "content": prompt}],
    }
