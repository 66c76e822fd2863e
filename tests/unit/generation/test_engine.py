"""Many answers at once are the same as one after the other, whoever joins, leaves, fails or waits."""

import json
import shutil
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from trimtab_api.errors import InvalidPackage
from trimtab_runtime.generation.answering import Asked, Piece
from trimtab_runtime.generation.batched import BatchedDecoder
from trimtab_runtime.generation.decoder import Decoder
from trimtab_runtime.generation.engine import Engine, Told
from trimtab_runtime.generation.folder import Folder, read_folder
from trimtab_runtime.generation.loading import load_decoder
from trimtab_runtime.generation.sampling import Sampling
from trimtab_runtime.generation.single import SingleDecoder
from trimtab_runtime.generation.words import Words
from trimtab_runtime.protocol.errors import BadRequest, Busy, InferenceFailed

SECONDS = 30
BUDGET = 16 << 20
ROWS = 4
PROMPTS = (
    "after three",
    "after eight comes",
    "<|user|>what comes after two?<|end|><|assistant|>",
    "after",
    "after ten",
)


class Watching:
    """Remembers how many answers ran together."""

    def __init__(self) -> None:
        self.rows: list[int] = []
        self.cached: list[int] = []

    def observe_run(self, rows: int, seconds: float) -> None:
        self.rows.append(rows)

    def observe_first(self, seconds: float, prompt: int, cached: int) -> None:
        self.cached.append(cached)

    def observe_tokens(self, count: int) -> None: ...

    def observe_work(self, running: int, waiting: int) -> None: ...


class Answer:
    """An answer as its caller sees it."""

    def __init__(self) -> None:
        self.pieces: list[Piece] = []
        self.error: Exception | None = None
        self._is_over = threading.Event()

    def take(self, piece: Piece | Exception) -> None:
        if isinstance(piece, Exception):
            self.error = piece
        else:
            self.pieces.append(piece)
        if isinstance(piece, Exception) or piece.ended:
            self._is_over.set()

    def text(self) -> str:
        assert self._is_over.wait(SECONDS)
        return "".join(piece.text for piece in self.pieces)

    @property
    def ended(self) -> str | None:
        return self.pieces[-1].ended


def tell(told: Told) -> None:
    for answering, piece in told:
        answering.deliver(piece)


class Talk:
    """An engine, asked in text."""

    def __init__(self, decoder: Decoder, words: Words, ends: frozenset[int], most_waiting: int = 100) -> None:
        self.watching = Watching()
        self.words = words
        self.engine = Engine(decoder, words, ends, most_waiting, self.watching, tell)

    def ask(self, text: str, most: int = 12, **options: Any) -> Answer:
        return self.begin(text, most, **options)[1]

    def begin(self, text: str, most: int = 12, **options: Any) -> tuple[Any, Answer]:
        answer = Answer()
        return self.engine.submit(Asked(tuple(self.words.encode(text)), most, **options), answer.take), answer


Make = Callable[..., Talk]
KINDS: dict[str, type[BatchedDecoder] | type[SingleDecoder]] = {"together": BatchedDecoder, "one by one": SingleDecoder}


@pytest.fixture(scope="module", params=KINDS)
def decoder(request: pytest.FixtureRequest, folder: Folder) -> Decoder:
    return KINDS[request.param](folder, 1, ROWS, BUDGET)


@pytest.fixture
def make(words: Words, folder: Folder) -> Iterator[Make]:
    talks: list[Talk] = []

    def made(decoder: Decoder, **options: int) -> Talk:
        talks.append(Talk(decoder, words, folder.ends, **options))
        return talks[-1]

    yield made
    for talk in talks:
        talk.engine.close()


@pytest.fixture
def talk(make: Make, decoder: Decoder) -> Talk:
    return make(decoder)


def test_the_model_says_what_it_was_taught(talk: Talk) -> None:
    answer = talk.ask("after three")

    assert answer.text() == " comes four"
    assert answer.ended == "stop"


def test_answers_in_company_are_those_of_a_lone_caller(talk: Talk) -> None:
    alone = [talk.ask(prompt).text() for prompt in PROMPTS]

    together = [talk.ask(prompt) for prompt in PROMPTS * 6]

    assert [answer.text() for answer in together] == alone * 6


def test_answers_run_together_where_the_graph_can(folder: Folder, make: Make) -> None:
    talk = make(BatchedDecoder(folder, 1, ROWS, BUDGET))

    answers = [talk.ask("after three", most=40, ignores_end=True) for _ in range(2 * ROWS)]

    assert len({answer.text() for answer in answers}) == 1
    assert max(talk.watching.rows) == ROWS


def test_callers_from_many_threads_get_their_own_answers(talk: Talk) -> None:
    alone = {prompt: talk.ask(prompt).text() for prompt in PROMPTS}
    prompts = [PROMPTS[at % len(PROMPTS)] for at in range(40)]

    with ThreadPoolExecutor(8) as pool:
        texts = list(pool.map(lambda prompt: talk.ask(prompt).text(), prompts))

    assert texts == [alone[prompt] for prompt in prompts]


def test_an_answer_ends_at_its_most_tokens(talk: Talk) -> None:
    answer = talk.ask("after three", most=1)

    assert answer.text() == " comes"
    assert answer.ended == "length"


def test_an_answer_does_not_end_before_its_least_tokens(talk: Talk) -> None:
    answer = talk.ask("after three", most=9, least=8)

    answer.text()
    assert len([piece for piece in answer.pieces if piece.chosen]) >= 8


def test_a_text_that_ends_an_answer_is_no_part_of_it(talk: Talk) -> None:
    answer = talk.ask("after three", stops=("es fo",))

    assert answer.text() == " com"
    assert answer.ended == "stop"


def test_what_could_become_such_a_text_and_does_not_is_given_in_the_end(talk: Talk) -> None:
    assert talk.ask("after three", stops=("four hundred",)).text() == " comes four"


def test_the_same_seed_gives_the_same_text_and_another_one_another(talk: Talk) -> None:
    def told(seed: int) -> str:
        return talk.ask("after", most=20, ignores_end=True, sampling=Sampling(temperature=2.0, seed=seed)).text()

    assert told(1) == told(1)
    assert len({told(seed) for seed in range(5)}) > 1


def test_a_prompt_that_goes_on_from_an_answer_is_not_read_again(talk: Talk) -> None:
    begun = "<|user|>what comes after two?<|end|><|assistant|>"
    answer = talk.ask(begun).text()

    talk.ask(f"{begun}{answer}<|end|><|user|>what comes after five?<|end|><|assistant|>").text()

    assert talk.watching.cached[-1] >= len(talk.words.encode(begun)) + 1


def test_answers_are_right_whatever_of_their_prompts_is_held_copied_or_read(folder: Folder, make: Make) -> None:
    random = np.random.default_rng(5)
    parts = [random.integers(3, 300, int(size)).tolist() for size in (40, 25, 3, 60, 1)]
    prompts = [[token for at in random.integers(0, 5, 3) for token in parts[at]] for _ in range(40)]
    budget = 8 * 256 * folder.token_bytes(4)  # less than they would take together: rows come and go
    talk = make(BatchedDecoder(folder, 1, ROWS, budget))

    def ask(talk: Talk, prompt: list[int], most: int) -> Answer:
        answer = Answer()
        talk.engine.submit(Asked(tuple(prompt), most, ignores_end=True), answer.take)
        return answer

    lengths = random.integers(1, 30, len(prompts)).tolist()
    answers = [ask(talk, prompt, most) for prompt, most in zip(prompts, lengths, strict=True)]
    texts = [answer.text() for answer in answers]

    lone = make(BatchedDecoder(folder, 1, 1, budget))
    assert texts == [ask(lone, prompt, most).text() for prompt, most in zip(prompts, lengths, strict=True)]
    assert sum(talk.watching.cached) > 500


def test_what_all_prompts_begin_with_is_read_once(folder: Folder, make: Make) -> None:
    talk = make(BatchedDecoder(folder, 1, ROWS, BUDGET))
    begun = "after three comes four<|end|>" * 6
    prompts = [f"{begun}after {number} comes" for number in ("one", "six", "nine")]
    alone = [make(BatchedDecoder(folder, 1, ROWS, BUDGET)).ask(prompt).text() for prompt in prompts]

    talk.ask(begun + "after", most=100, ignores_end=True)  # which is being given while the others come
    answers = [talk.ask(prompt) for prompt in prompts]

    assert [answer.text() for answer in answers] == alone
    assert min(talk.watching.cached[1:]) >= len(talk.words.encode(begun))


def test_a_conversation_is_kept_when_another_begins_alike(folder: Folder, make: Make) -> None:
    talk = make(BatchedDecoder(folder, 1, ROWS, BUDGET))
    begun = "after three comes four<|end|>" * 4
    first, second = (begun + text * 10 for text in ("after one comes two<|end|>", "after nine comes ten<|end|>"))

    for prompt in (first, second, first + "after", second + "after"):
        talk.ask(prompt).text()

    lengths = [len(talk.words.encode(prompt)) for prompt in (begun, first, second)]
    assert [before >= length for before, length in zip(talk.watching.cached[1:], lengths, strict=True)] == [True] * 3


def test_what_is_held_of_other_answers_changes_none(talk: Talk) -> None:
    prompts = [f"after {number} comes" for number in ("one", "two", "nine")] * 4

    assert [talk.ask(prompt).text() for prompt in prompts] == [" two", " three", " ten"] * 4


def test_long_prompts_are_read_in_pieces_while_others_are_answered(make: Make, decoder: Decoder) -> None:
    long, how = "after three comes four<|end|>" * 40 + "after six", {"most": 8, "ignores_end": True}
    alone = make(decoder).ask(long, **how).text()
    talk = make(decoder)

    answers = [talk.ask("after", most=60, ignores_end=True), talk.ask(long, **how), talk.ask("after three")]

    assert [answer.text() for answer in answers[1:]] == [alone, " comes four"]
    assert answers[0].text()


def test_a_caller_that_left_makes_room(make: Make, decoder: Decoder) -> None:
    talk = make(decoder)
    gone = [talk.begin("after", most=400, ignores_end=True)[0] for _ in range(ROWS)]
    for answering in gone:
        answering.left = True

    assert talk.ask("after three").text() == " comes four"


def test_a_prompt_that_cannot_have_room_is_refused_with_both_sizes(talk: Talk) -> None:
    with pytest.raises(BadRequest, match=r"the prompt has 2 tokens and the answer may have 9999; together at most \d+"):
        talk.ask("after three", most=9999)


def test_a_prompt_of_nothing_is_refused(talk: Talk) -> None:
    with pytest.raises(BadRequest, match="no tokens"):
        talk.ask("")


def test_too_many_that_wait_are_refused_with_a_time_to_come_again(make: Make, decoder: Decoder) -> None:
    talk = make(decoder, most_waiting=2)
    begun: list[Any] = []

    def go_on() -> None:
        for _ in range(100):
            begun.append(talk.begin("after", most=300, ignores_end=True)[0])

    with pytest.raises(Busy, match="prompts wait already") as refused:
        go_on()

    assert refused.value.retry_after >= 1
    for answering in begun:
        answering.left = True


class Failing:
    """A decoder that fails once."""

    def __init__(self, decoder: Decoder) -> None:
        self._decoder = decoder
        self.fails = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._decoder, name)

    def step(self, tokens: Any) -> Any:
        if self.fails:
            self.fails = False
            raise RuntimeError("no memory")
        return self._decoder.step(tokens)


def test_a_model_that_fails_tells_its_callers_and_goes_on_with_the_next(make: Make, decoder: Decoder) -> None:
    failing = Failing(decoder)
    talk = make(failing)
    failing.fails = True

    failed = talk.ask("after three")
    failed.text()

    assert isinstance(failed.error, InferenceFailed)
    assert talk.ask("after three").text() == " comes four"


class Unwilling(Failing):
    """A decoder that has no memory for one more, once."""

    def reserve(self, rows: int, tokens: int) -> None:
        if self.fails:
            self.fails = False
            raise MemoryError
        self._decoder.reserve(rows, tokens)


def test_a_caller_that_there_is_no_memory_for_is_told(make: Make, decoder: Decoder) -> None:
    unwilling = Unwilling(decoder)
    talk = make(unwilling)
    unwilling.fails = True

    failed = talk.ask("after three")
    failed.text()

    assert isinstance(failed.error, InferenceFailed)
    assert talk.ask("after three").text() == " comes four"


def test_a_cache_that_cannot_go_back_is_begun_anew(folder: Folder, make: Make) -> None:
    decoder = SingleDecoder(folder, 1, ROWS, BUDGET)
    talk = make(decoder)
    assert talk.ask("after three").text() == " comes four"
    row = decoder._rows[0]
    assert row is not None
    row.generator = None  # whatever is asked of it raises

    assert talk.ask("after three").text() == " comes four"


def test_callers_that_left_do_not_keep_others_out(make: Make, decoder: Decoder) -> None:
    talk = make(decoder, most_waiting=3)
    for _ in range(30):
        talk.begin("after", most=300, ignores_end=True)[0].left = True

    assert talk.ask("after three").text() == " comes four"


def test_a_graph_that_turns_positions_by_the_longest_row_runs_one_by_one(folder: Folder, tmp_path: Path) -> None:
    shutil.copytree(folder.path, tmp_path / "long")
    graph = onnx.load(tmp_path / "long/model.onnx", load_external_data=False)
    graph.graph.doc_string = "cos_cache_large"
    (tmp_path / "long/model.onnx").write_bytes(graph.SerializeToString())

    assert isinstance(load_decoder(read_folder(tmp_path / "long"), 1, ROWS, BUDGET).decoder, SingleDecoder)


def with_in_decoder(folder: Folder, tmp_path: Path, **settings: Any) -> Path:
    """Return a copy of a folder whose configuration says something else of the decoder."""
    copy = tmp_path / "changed"
    shutil.copytree(folder.path, copy)
    config = json.loads((copy / "genai_config.json").read_text())
    config["model"]["decoder"] |= settings
    (copy / "genai_config.json").write_text(json.dumps(config))
    return copy


@pytest.mark.parametrize(("layers", "longest"), [([], 64), ([0], 512)])
def test_a_graph_that_lost_its_window_is_right_within_it(
    layers: list[int], longest: int, folder: Folder, tmp_path: Path
) -> None:
    changed = with_in_decoder(folder, tmp_path, sliding_window={"window_size": 64, "layers": layers})

    assert BatchedDecoder(read_folder(changed), 1, ROWS, BUDGET).most_tokens == longest


def test_a_folder_that_names_a_library_is_refused(folder: Folder, tmp_path: Path) -> None:
    changed = with_in_decoder(folder, tmp_path, session_options={"custom_ops_library": "merges.data"})

    with pytest.raises(InvalidPackage, match="code of a folder never runs"):
        read_folder(changed)


def test_more_answers_than_the_cache_holds_wait_for_each_other(folder: Folder, make: Make) -> None:
    budget = 256 * folder.token_bytes(4)  # two short answers, or a long one
    talk = make(BatchedDecoder(folder, 1, 8, budget))

    answers = [talk.ask("after three"), talk.ask("after", most=200, ignores_end=True), talk.ask("after nine comes")] * 2

    assert [answer.text() for answer in answers if answer is not answers[1]] == [" comes four", " ten"] * 2
    assert max(talk.watching.rows) <= 2


def test_a_decoder_whose_answers_differ_in_company_is_not_used(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    step = BatchedDecoder.step
    monkeypatch.setattr(BatchedDecoder, "step", lambda self, tokens: step(self, tokens)[::-1] * len(tokens))

    loaded = load_decoder(folder, 1, ROWS, BUDGET)

    assert isinstance(loaded.decoder, SingleDecoder)
    assert loaded.difference is None


def test_logits_of_both_ways_are_alike(folder: Folder) -> None:
    tokens = np.random.default_rng(0).integers(3, 300, 300).tolist()
    found = []
    for kind in KINDS.values():
        decoder = kind(folder, 1, ROWS, BUDGET)
        decoder.reserve(1, 400)
        found.append(decoder.extend(0, tokens))

    assert found[0] == pytest.approx(found[1], abs=1e-3)
