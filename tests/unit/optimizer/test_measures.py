"""Measures over arrays: batches as they come, and figures that torch, or a sheet of paper, gives too."""

import math
from typing import Any

import numpy as np
import pytest
import torch

from trimtab_api.errors import InvalidData
from trimtab_optimizer.measuring import meters
from trimtab_optimizer.measuring.answers import Answers
from trimtab_optimizer.measuring.comparison import compare_answers, details_of
from trimtab_optimizer.measuring.meters import Classes, Errors, Likelihood, Meter, Vectors
from trimtab_optimizer.measuring.similarity import mean_cosine, recall_of_neighbours

RANDOM = np.random.default_rng(7)


def read(meter: Meter, outputs: Any, labels: Any = None, size: int = 8) -> Answers:
    """Let a meter see arrays in batches."""
    for start in range(0, len(outputs), size):
        part = slice(start, start + size)
        meter.add([np.asarray(outputs)[part]], None if labels is None else np.asarray(labels)[part])
    return meter.read()


def figures(source: Answers, result: Answers) -> dict[str, float | None]:
    return {item.name: item.value for item in compare_answers(source, result)}


def test_accuracy_comes_with_its_interval_and_the_comparison_of_the_same_rows() -> None:
    labels = np.arange(100) % 4
    scores = np.eye(4)[labels]
    worse = np.where(np.arange(100)[:, None] < 8, -scores, scores)
    source, result = read(Classes(), scores, labels), read(Classes(), worse, labels)

    accuracy = compare_answers(source, result)[0]

    assert (accuracy.name, accuracy.value, accuracy.source) == ("accuracy", 0.92, 1.0)
    assert (accuracy.low, accuracy.high) == pytest.approx((0.850, 0.959), abs=1e-3)
    assert accuracy.p_value == pytest.approx(2 / 2**8, rel=1e-3)
    assert details_of(source, result)["accuracy"] == {
        "sourceLow": pytest.approx(0.963, abs=1e-3),
        "sourceHigh": 1.0,
        "onlySource": 8,
        "onlyResult": 0,
    }


def test_a_row_that_is_no_number_has_no_class_and_agrees_with_nothing() -> None:
    scores = np.eye(4)
    broken = scores.copy()
    broken[1, 2] = np.nan

    assert figures(read(Classes(), broken), read(Classes(), broken))["agreement"] == 0.75


def test_without_labels_accuracy_is_absent_and_its_note_says_what_to_add() -> None:
    answers = read(Classes(), np.eye(4))

    assert figures(answers, answers) == {"accuracy": None, "agreement": 1.0}
    assert "add the class of each row as integers" in details_of(answers, answers)["accuracy"]["note"]


@pytest.mark.parametrize(
    ("outputs", "labels"),
    [
        (RANDOM.standard_normal((20, 3)), RANDOM.standard_normal((20, 3))),
        (RANDOM.standard_normal((20, 1)).astype(np.float32), RANDOM.standard_normal(20).astype(np.float32)),
        (RANDOM.standard_normal(20), RANDOM.standard_normal(20)),
    ],
)
def test_errors_of_values_are_those_of_torch(outputs: Any, labels: Any) -> None:
    found, wanted = torch.tensor(outputs).double().flatten(), torch.tensor(labels).double().flatten()

    scores = read(Errors(), outputs, labels).scores

    assert scores["rmse"] == pytest.approx(math.sqrt(torch.nn.functional.mse_loss(found, wanted)), rel=1e-9)
    assert scores["meanAbsoluteError"] == pytest.approx(torch.nn.functional.l1_loss(found, wanted).item(), rel=1e-9)


def test_values_of_another_shape_than_the_answers_are_refused() -> None:
    with pytest.raises(InvalidData, match=r"`label` has \[3\] a row, and the model answers \[4\]"):
        read(Errors(), np.zeros((20, 4)), np.zeros((20, 3)))


def test_perplexity_is_that_of_torch_and_ignores_what_torch_ignores() -> None:
    scores = (30 * RANDOM.standard_normal((20, 5, 7))).astype(np.float32)
    tokens = RANDOM.integers(0, 7, (20, 5))
    tokens[RANDOM.random((20, 5)) < 0.3] = -100
    tokens[3] = -100

    found = read(Likelihood(), scores, tokens).scores["perplexity"]

    entropy = torch.nn.functional.cross_entropy(torch.tensor(scores).reshape(-1, 7), torch.tensor(tokens).reshape(-1))
    assert found == pytest.approx(math.exp(entropy), rel=1e-5)


@pytest.mark.parametrize(
    ("tokens", "named"),
    [(np.full((20, 4), 1), r"has \[4\] a row, and the model answers \[5\]"), (np.full((20, 5), 9), "goes up to 9")],
)
def test_tokens_that_the_model_does_not_give_are_refused(tokens: Any, named: str) -> None:
    with pytest.raises(InvalidData, match=named):
        read(Likelihood(), np.zeros((20, 5, 7)), tokens)


@pytest.mark.parametrize(
    ("meter", "outputs", "labels", "name"),
    [
        (Errors(), np.full((4, 2), np.nan), np.zeros((4, 2)), "rmse"),
        (Likelihood(), np.full((4, 2, 3), np.nan), np.zeros((4, 2), np.int64), "perplexity"),
        (Likelihood(), np.full((4, 2, 3), [0, 5e3, 5e3]), np.zeros((4, 2), np.int64), "perplexity"),
    ],
)
def test_a_figure_that_is_no_number_is_absent_with_a_note(meter: Any, outputs: Any, labels: Any, name: str) -> None:
    answers = read(meter, outputs, labels)

    assert answers.scores[name] is None
    assert "no numbers" in answers.notes[name]


def test_the_mean_cosine_is_that_of_torch() -> None:
    one, other = (RANDOM.standard_normal((700, 9)).astype(np.float32) for _ in range(2))

    expected = torch.nn.functional.cosine_similarity(torch.tensor(one), torch.tensor(other)).mean().item()

    assert mean_cosine(one, other) == pytest.approx(expected, abs=1e-6)


def test_rows_of_zeros_are_like_each_other_and_like_nothing_else() -> None:
    zeros, ones = np.zeros((1, 3), np.float32), np.ones((1, 3), np.float32)

    assert mean_cosine(np.vstack([zeros, zeros]), np.vstack([zeros, ones])) == 0.5


def _recall_on_paper(one: Any, other: Any) -> float:
    kept = []
    for rows in (one, other):
        unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        cosines = unit @ unit.T
        np.fill_diagonal(cosines, -2)
        kept.append([set(np.argsort(-row, kind="stable")[:10]) for row in cosines])
    return float(np.mean([len(a & b) / 10 for a, b in zip(*kept, strict=True)]))


def test_neighbours_are_those_of_the_plain_computation_over_blocks() -> None:
    one = RANDOM.standard_normal((600, 12)).astype(np.float32)
    other = one + 0.3 * RANDOM.standard_normal((600, 12)).astype(np.float32)

    found = recall_of_neighbours(one, other)

    assert found == pytest.approx(_recall_on_paper(one, other), abs=1e-3)
    assert 0.2 < found < 0.9
    assert recall_of_neighbours(one, 5 * one) == 1.0


def test_neighbours_are_looked_for_among_the_first_two_thousand_rows() -> None:
    one = RANDOM.standard_normal((2300, 4)).astype(np.float32)
    other = one.copy()
    other[2000:] = 0

    assert recall_of_neighbours(one, other) == 1.0


@pytest.mark.parametrize(
    ("outputs", "absent", "note"),
    [
        (np.ones((5, 4), np.float32), {"recallAt10"}, "needs more than 11"),
        (np.ones((20, 1), np.float32), {"cosine", "recallAt10"}, "no direction"),
        (np.full((20, 4), np.nan, np.float32), {"cosine", "recallAt10"}, "no numbers"),
    ],
)
def test_what_has_no_direction_or_neighbours_is_noted(outputs: Any, absent: set[str], note: str) -> None:
    answers = read(Vectors(), outputs)

    assert {name for name, value in figures(answers, answers).items() if value is None} == absent
    assert all(note in details_of(answers, answers)[name]["note"] for name in absent)


def test_answers_of_whole_numbers_have_no_direction_at_all() -> None:
    assert read(Vectors(), np.ones((20, 4), np.int64)).compared == ()


def test_answers_larger_than_the_memory_for_them_are_compared_in_part(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(meters, "MOST_KEPT", 13 * 4 * 4)
    rows = RANDOM.standard_normal((20, 4))

    answers = read(Vectors(), rows)

    assert answers.vectors is not None
    assert len(answers.vectors) == 13
    assert figures(answers, answers) == {"cosine": 1.0, "recallAt10": 1.0}
    assert "the first 13 of 20 rows" in details_of(answers, answers)["cosine"]["note"]
