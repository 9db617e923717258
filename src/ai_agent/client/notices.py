"""What an application hears of a channel besides events, and what a conversation asks of whoever runs its socket."""

from typing import Any

import msgspec

from ai_agent.client.errors import ClientError, SubscriptionEnded
from ai_agent.client.events import Event


class Gap(msgspec.Struct, frozen=True, kw_only=True):
    """Events that are gone, from the first to the last of them: `trimmed`, `expired`, or lost with an `epoch`."""

    ch: str
    first: int
    last: int
    reason: str


class Live(msgspec.Struct, frozen=True):
    """All that was kept has come; what comes now is new."""

    ch: str
    seq: int


class EpochChanged(msgspec.Struct, frozen=True):
    """The channel is numbered anew behind `seq`. `rewound_to` is set where the server had lost a tail.

    What of that tail comes again, under whatever number, is not delivered twice.
    """

    ch: str
    epoch: str
    seq: int
    rewound_to: int | None = None


Notice = Event | Gap | Live | EpochChanged


class Ended(msgspec.Struct, frozen=True):
    """A subscription has ended, and not because the application wanted it."""

    ch: str
    error: SubscriptionEnded


class Connected(msgspec.Struct, frozen=True):
    """Nothing heard for `silence_seconds` means that the server is gone."""

    conn: str
    user: str
    silence_seconds: float


class Replied(msgspec.Struct, frozen=True):
    """The answer to a command."""

    id: int
    data: Any


class Failed(msgspec.Struct, frozen=True):
    """A command was refused, or nobody knows whether it was heard."""

    id: int
    error: ClientError


class Trouble(msgspec.Struct, frozen=True):
    """An error that answers none of the application's commands."""

    code: str
    message: str


class TokenWanted(msgspec.Struct, frozen=True):
    """The credentials are about to end: `renew` with new ones."""


class Drop(msgspec.Struct, frozen=True):
    """Close the socket: the next one will do better."""


class Retry(msgspec.Struct, frozen=True):
    """Connect again after so many milliseconds; with `jitter` after a random part of them."""

    within_ms: int
    jitter: bool


class Over(msgspec.Struct, frozen=True):
    """The conversation is over for good. `message` is what the server has said about it."""

    code: int
    reason: str
    message: str = ""


Output = Notice | Ended | Connected | Replied | Failed | Trouble | TokenWanted | Drop | Retry | Over
