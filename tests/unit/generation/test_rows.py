"""A new answer begins where most of its prompt is, and what it takes the place of is what was not used for longest."""

from trimtab_runtime.generation.rows import Beginning, Rows

CHAT = list(range(100))


def rows(*held: list[int]) -> Rows:
    """Return rows that hold tokens, and were used in this order."""
    made = Rows()
    made.fit([0] * len(held))
    for row, tokens in enumerate(held):
        if tokens:
            made.keep(row, tokens)
    return made


def test_a_conversation_goes_on_in_its_row() -> None:
    assert rows([7], CHAT, [8]).begin([*CHAT, 5], running=1) == Beginning(1, 1, 100)


def test_the_last_token_of_a_prompt_is_always_read() -> None:
    assert rows(CHAT).begin(CHAT, running=0) == Beginning(0, 0, 99)


def test_what_a_running_answer_began_with_is_copied() -> None:
    assert rows(CHAT, []).begin([*CHAT[:50], 7, 8], running=1) == Beginning(1, 0, 50)


def test_a_long_conversation_is_copied_rather_than_cut() -> None:
    assert rows(CHAT, []).begin([*CHAT[:50], 7, 8], running=0) == Beginning(1, 0, 50)


def test_a_conversation_that_loses_next_to_nothing_is_not_copied() -> None:
    assert rows(CHAT, []).begin([*CHAT[:95], 7], running=0) == Beginning(0, 0, 95)


def test_the_only_free_row_is_taken_whatever_it_holds() -> None:
    assert rows([7], CHAT).begin([*CHAT[:20], 7, 8], running=1) == Beginning(1, 1, 20)


def test_an_empty_row_goes_first_and_then_the_one_that_was_not_used_for_longest() -> None:
    assert rows([1] * 50, [2] * 50, []).begin([9, 9], running=0).row == 2
    assert rows([1] * 50, [2] * 50, [3] * 50).begin([1, 9, 9], running=0).row == 1
    assert rows([4], [1] * 50, [2] * 50, [3] * 50).begin([4, 9, 9], running=1).row == 1


def test_rows_that_are_gone_hold_nothing_and_shorter_ones_less() -> None:
    made = rows(CHAT, CHAT)

    made.fit([10])

    assert made.length(0) == 10
    assert made.begin([*CHAT, 1], running=0) == Beginning(0, 0, 10)
