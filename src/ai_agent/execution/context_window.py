"""How much of a conversation a model gets when its window is too small for all of it."""

from collections.abc import Sequence

from ai_agent.domain.messages import HistoryEntry

RESERVED_TOKENS = 512
"""For the answer, unless the agent says how long it may be."""


def fitting(branch: Sequence[HistoryEntry], prompt: str, tokens: int) -> Sequence[HistoryEntry]:
    """The newest part of the branch that fits the window. The new message itself is always kept."""
    left = tokens - tokens_of(prompt)
    for index in range(len(branch) - 1, -1, -1):
        left -= tokens_of(branch[index].content)
        if left < 0:
            return branch[min(index + 1, len(branch) - 1) :]
    return branch


def tokens_of(text: str) -> int:
    """A cautious estimate: three bytes of UTF-8 a token, and the frame of a message."""
    return len(text.encode()) // 3 + 8
