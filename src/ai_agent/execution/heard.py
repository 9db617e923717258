"""What a model said in one step, passed on and counted while it speaks."""

from collections.abc import Awaitable, Callable

from ai_agent.domain.errors import ExternalServiceError
from ai_agent.domain.fields import CONTENT_BYTES

Say = Callable[[str, str], Awaitable[None]]

LOOK_CHARACTERS = 256
CHARACTERS_A_TOKEN = 4
SURE_CHARACTERS = 8
"""Hardly a text has more characters a token: so many were surely said."""


class Heard:
    """`look` is told every few characters how many tokens were surely said, and raises when that is too much.

    `gap` is said before the first words, to set them off from those of the step before.
    """

    def __init__(self, say: Say, look: Callable[[int], None], gap: str, provider: str):
        self._say = say
        self._look = look
        self._gap = gap
        self._provider = provider
        self._pieces: list[str] = []
        self._characters = 0
        self._next_look = LOOK_CHARACTERS
        self.began = False
        """Whether anything was passed on: what was heard is not said again by a retry."""

    @property
    def text(self) -> str:
        return "".join(self._pieces)

    @property
    def tokens(self) -> int:
        """How many tokens that was, roughly."""
        return self._characters // CHARACTERS_A_TOKEN

    async def say(self, kind: str, text: str) -> None:
        self.began = True
        if kind == "token":
            if self._gap and not self._pieces:
                text = self._gap + text
            self._pieces.append(text)
        self.count(len(text))
        await self._say(kind, text)

    def count(self, characters: int) -> None:
        self._characters += characters
        if self._characters < self._next_look:
            return
        self._next_look = self._characters + LOOK_CHARACTERS
        if self._characters > CONTENT_BYTES:
            message = f"The model's answer is longer than {CONTENT_BYTES} characters"
            raise ExternalServiceError(message, service_name=self._provider, retryable=False)
        self._look(self._characters // SURE_CHARACTERS)
