"""Tokens are chosen as callers ask for it, and texts stop where they say."""

import json
import math
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab_runtime.generation.folder import Folder, read_folder
from trimtab_runtime.generation.sampling import Sampler, Sampling
from trimtab_runtime.generation.words import SpellingByTexts, Stopping, Words
from trimtab_runtime.protocol.errors import BadRequest

LOGITS = np.log(np.array([0.5, 0.3, 0.15, 0.05], np.float32))
NONE: frozenset[int] = frozenset()


def shares(sampling: Sampling, draws: int = 4000) -> dict[int, float]:
    sampler = Sampler(sampling, ())
    counts = Counter(sampler.choose(LOGITS, NONE).token for _ in range(draws))
    return {token: counts[token] / draws for token in sorted(counts)}


def test_without_a_temperature_the_likeliest_token_is_taken() -> None:
    assert shares(Sampling(), 10) == {0: 1}


def test_tokens_come_as_often_as_the_model_says() -> None:
    assert shares(Sampling(temperature=1, seed=1)) == pytest.approx({0: 0.5, 1: 0.3, 2: 0.15, 3: 0.05}, abs=0.03)


def test_a_low_temperature_makes_the_likely_likelier() -> None:
    assert shares(Sampling(temperature=0.5, seed=1))[0] == pytest.approx(0.25 / 0.365, abs=0.03)


@pytest.mark.parametrize(
    ("sampling", "kept"),
    [
        (Sampling(temperature=1, seed=1, top_k=2), {0, 1}),
        (Sampling(temperature=1, seed=1, top_p=0.79), {0, 1}),
        (Sampling(temperature=1, seed=1, top_p=0.81), {0, 1, 2}),
        (Sampling(temperature=1, seed=1, top_p=0.0001), {0}),
        (Sampling(temperature=1, seed=1, min_p=0.2), {0, 1, 2}),
        (Sampling(temperature=1, seed=1, bias={0: -100.0}), {1, 2, 3}),
    ],
)
def test_only_tokens_that_are_allowed_come(sampling: Sampling, kept: set[int]) -> None:
    assert set(shares(sampling)) == kept


def test_a_token_that_was_there_is_penalized_by_how_often() -> None:
    sampler = Sampler(Sampling(presence_penalty=0.1, frequency_penalty=0.3), ())

    assert [sampler.choose(LOGITS, NONE).token for _ in range(4)] == [0, 0, 1, 0]


def test_repetition_is_penalized_of_the_prompt_too() -> None:
    assert Sampler(Sampling(repetition_penalty=2.0), (0,)).choose(LOGITS, NONE).token == 1


def test_a_forbidden_token_never_comes() -> None:
    assert Sampler(Sampling(), ()).choose(LOGITS, frozenset({0, 1})).token == 2


def test_probabilities_that_are_told_are_those_of_the_model() -> None:
    chosen = Sampler(Sampling(logprobs=2, bias={3: 50.0}), ()).choose(LOGITS, NONE)

    assert chosen.token == 3
    assert chosen.logprob == pytest.approx(math.log(0.05), abs=1e-5)
    assert [item.token for item in chosen.likeliest] == [0, 1]


@given(
    text=st.text("ab ", max_size=30), stops=st.lists(st.text("ab ", min_size=1, max_size=3), max_size=3), data=st.data()
)
def test_a_text_stops_at_the_first_stop_however_it_is_cut_into_pieces(
    text: str, stops: list[str], data: st.DataObject
) -> None:
    stopping, found, at, is_over = Stopping(stops), "", 0, False
    while at < len(text) and not is_over:
        size = data.draw(st.integers(1, 4))
        piece, is_over = stopping.add(text[at : at + size])
        found, at = found + piece, at + size
    found += stopping.rest()

    ends = [text.find(stop) for stop in stops if stop in text]
    if is_over:
        assert any(text.startswith(found + stop) for stop in stops)
    else:
        assert found == text
        assert not ends


def test_text_comes_back_as_it_was_also_where_a_character_is_many_tokens(words: Words) -> None:
    text = "héllo 🎉 after three"
    spelling = words.spelling()

    pieces = [spelling.add(token) for token in words.encode(text)]

    assert "".join(pieces) == text
    assert "🎉" in pieces


def test_after_a_broken_character_all_that_follows_is_told(words: Words) -> None:
    [first, *_], [comes] = words.encode("🎉"), words.encode(" comes")
    spelling = words.spelling()

    assert spelling.add(first) + spelling.add(comes) + spelling.rest() == "\ufffd comes"


def test_half_a_character_at_the_end_is_told_as_such(words: Words) -> None:
    spelling = words.spelling()

    assert spelling.add(words.encode("🎉")[0]) == ""
    assert spelling.rest() == "\ufffd"


def test_a_tokenizer_that_tells_no_bytes_is_spelled_by_texts(words: Words) -> None:
    spelling, text = SpellingByTexts(words.decode), "after thrée 🎉 comes"

    assert "".join([*map(spelling.add, words.encode(text)), spelling.rest()]) == text


def test_bytes_of_tokens_are_those_of_their_text(words: Words) -> None:
    text = "thrée 🎉 comes <|end|>"

    assert b"".join(words.piece(token) or b"" for token in words.encode(text)) == "thrée 🎉 comes ".encode()


@pytest.mark.parametrize("text", ["a\0b", " " * 100_000])
def test_a_text_that_cannot_be_read_is_refused_before_it_is(words: Words, text: str) -> None:
    with pytest.raises(BadRequest):
        words.encode(text, most=100)
    with pytest.raises(BadRequest):
        words.encode_chat([{"role": "user", "content": text}], most=100)


def test_a_text_begins_as_the_model_knows_it_and_a_chat_as_its_template_says(folder: Folder, tmp_path: Path) -> None:
    shutil.copytree(folder.path, tmp_path / "begun")
    tokenizer = json.loads((tmp_path / "begun/tokenizer.json").read_text())
    begin = {"SpecialToken": {"id": "<|end|>", "type_id": 0}}
    tokenizer["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [begin, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [begin, {"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {"<|end|>": {"id": "<|end|>", "ids": [0], "tokens": ["<|end|>"]}},
    }
    (tmp_path / "begun/tokenizer.json").write_text(json.dumps(tokenizer))
    words = Words(read_folder(tmp_path / "begun"))

    assert words.encode("after")[0] == 0
    assert words.encode_chat([{"role": "user", "content": "after"}])[0] == 1
