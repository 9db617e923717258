"""What of a conversation goes to the model when its window is too small for all of it."""

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from ai_agent.domain.messages import HistoryEntry, Role
from ai_agent.execution.context_window import fitting

FRAME = 8
"""Tokens that a message costs beside its text."""


def said(*texts: str) -> list[HistoryEntry]:
    return [HistoryEntry(Role.USER, text) for text in texts]


def contents(branch: Sequence[HistoryEntry]) -> list[str]:
    return [entry.content for entry in branch]


def test_a_branch_that_fits_is_kept_whole() -> None:
    branch = said("a" * 30, "b" * 30, "c" * 30)
    # Three texts of ten tokens with their frames, and the frame of an empty prompt.
    assert fitting(branch, "", 3 * 18 + FRAME) == branch


def test_the_oldest_message_goes_first() -> None:
    branch = said("a" * 30, "b" * 30, "c" * 30)
    assert contents(fitting(branch, "", 3 * 18 + FRAME - 1)) == ["b" * 30, "c" * 30]
    assert contents(fitting(branch, "", 2 * 18 + FRAME - 1)) == ["c" * 30]


def test_no_older_message_is_kept_behind_one_that_goes() -> None:
    branch = said("short", "x" * 3000, "new")
    assert contents(fitting(branch, "", 200)) == ["new"]


def test_the_new_message_is_kept_even_when_it_is_too_long() -> None:
    assert contents(fitting(said("old", "new" * 1000), "", 100)) == ["new" * 1000]
    assert contents(fitting(said("old", "new"), "", 0)) == ["new"]
    assert contents(fitting(said("old", "new"), "", -5000)) == ["new"]


def test_the_system_prompt_takes_its_part_of_the_window() -> None:
    branch = said("a" * 30, "b" * 30)
    assert len(fitting(branch, "", 2 * 18 + FRAME)) == 2
    assert len(fitting(branch, "be brief", 2 * 18 + FRAME)) == 1


def test_text_counts_by_its_bytes() -> None:
    tokens = 2 * 18 + FRAME
    assert len(fitting(said("a" * 30, "b" * 30), "", tokens)) == 2
    assert len(fitting(said("語" * 30, "b" * 30), "", tokens)) == 1


@given(st.lists(st.text(max_size=40), min_size=1, max_size=8), st.text(max_size=40), st.integers(-10, 300))
def test_what_is_kept_is_the_end_of_the_branch_and_grows_with_the_window(
    texts: list[str], prompt: str, tokens: int
) -> None:
    branch = said(*texts)
    kept = list(fitting(branch, prompt, tokens))
    assert kept
    assert kept == branch[-len(kept) :]
    assert len(fitting(branch, prompt, tokens + 50)) >= len(kept)
    # What a token is, is the provider's own affair, but no more than one a byte.
    if len(kept) > 1:
        assert sum(len(text.encode()) for text in contents(kept)) // 3 <= tokens
