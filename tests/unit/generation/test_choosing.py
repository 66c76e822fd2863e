"""Tokens are chosen as callers ask for it, and texts stop where they say."""

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab_runtime.generation.sampling import Sampler, Sampling
from trimtab_runtime.generation.words import Stopping, Words

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
    spelling = words.stream()

    pieces = [spelling.add(token) for token in words.encode(text)]

    assert "".join(pieces) == text
    assert "🎉" in pieces
