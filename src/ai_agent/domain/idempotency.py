"""An `Idempotency-Key`: a repeated request happens once.

Source: IETF draft "The Idempotency-Key HTTP Header Field".
"""

import re

import msgspec

from ai_agent.domain.errors import MalformedRequest

KEPT_HOURS = 24

_VISIBLE_ASCII = re.compile(r"[!-~]{1,255}")


class IdempotencyKey(msgspec.Struct):
    """The key of one request. `replayed` is set when it turns out to be a repeat.

    `interrupted`: an earlier request of the key was lost while it was worked on; what it did is not known.
    """

    path: str
    text: str
    body_digest: str
    replayed: bool = False
    interrupted: bool = False

    def __post_init__(self) -> None:
        if not _VISIBLE_ASCII.fullmatch(self.text):
            raise MalformedRequest("Idempotency-Key must be 1 to 255 visible ASCII characters")
