"""Whether to connect again when a socket is closed, and when."""

from ai_agent.client.notices import Over, Retry
from ai_agent.client.waits import longest_wait_ms
from ai_agent.domain.frames import Bye, CloseCode

_OUR_FAULT = {1002, 1003, 1007, 1008, 1009, 1010}
"""Codes of RFC 6455 which say that the client did what it would do again."""


class Closing:
    """Counts failures, from one success to the next. `renewable`: there is somebody to ask for another token.

    `why` is what the server has said about it in words.
    """

    def __init__(self, *, renewable: bool):
        self.bye: Bye | None = None
        self.why = ""
        self._renewable = renewable
        self._failures = 0
        self._refused = False

    def welcomed(self) -> None:
        self._refused = False
        self.why = ""

    def succeeded(self) -> None:
        self._failures = 0

    def lost(self, code: int) -> Retry | Over:
        """What a `bye` has said counts more than the socket's own code, which may not have arrived."""
        bye, self.bye = self.bye, None
        code = bye.code if bye else code
        if code == CloseCode.UNAUTHENTICATED and self._renewable and not self._refused:
            self._refused = True
            return Retry(0, jitter=False)
        if final(code):
            return Over(code, bye.reason if bye else _reason(code), self.why)
        return self._retry(bye)

    def _retry(self, bye: Bye | None) -> Retry:
        self._failures += 1
        if bye is not None and isinstance(bye.after_ms, int):
            return Retry(bye.after_ms, jitter=False)
        return Retry(longest_wait_ms(self._failures), jitter=True)


def final(code: int) -> bool:
    """Holds for codes that this version does not know, too."""
    return code in _OUR_FAULT or 4400 <= code <= 4409 or 4430 <= code <= 4499


def _reason(code: int) -> str:
    return CloseCode(code).reason if code in list(CloseCode) else ""
