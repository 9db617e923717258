"""The frames of the real-time protocol, version 1, in both codecs, and the codes that a socket is closed with.

The same maps in JSON and MessagePack, one a frame; `t` says which. Text of ids and times is the same in both.
"""

from enum import IntEnum
from typing import Annotated, Literal
from uuid import UUID

import msgspec
from msgspec import UNSET, Meta, UnsetType

from ai_agent.domain.events import EventFrame
from ai_agent.domain.fields import JsonObject, JsonValue

JSON_PROTOCOL = "aiagent.v1.json"
MSGPACK_PROTOCOL = "aiagent.v1.msgpack"

FRAME_BYTES = 65_536
SUBSCRIPTIONS = 100
COMMANDS_PER_SECOND = 50
COMMAND_BURST = 100

CommandId = Annotated[int, Meta(ge=0, le=2**32 - 1)]
Seq = Annotated[int, Meta(ge=0, le=2**53 - 1)]
ChannelName = Annotated[str, Meta(min_length=1, max_length=300)]
Epoch = Annotated[str, Meta(max_length=64)]


OnGap = Literal["latest", "earliest", "fail"]


class CloseCode(IntEnum):
    """Why we close. 4400 to 4409 and 4430 to 4499 are final; 4410 to 4429 and 4500 to 4599 mean: connect again."""

    NORMAL = 1000
    UNSUPPORTED_DATA = 1003
    TOO_BIG = 1009
    BAD_FRAME = 4400
    UNAUTHENTICATED = 4401
    FORBIDDEN = 4403
    SUBPROTOCOL = 4406
    REPLACED = 4409
    CONNECT_TIMEOUT = 4411
    HEARTBEAT = 4415
    TOKEN_EXPIRED = 4419
    DRAINING = 4420
    SLOW_CONSUMER = 4421
    RATE_LIMIT = 4429
    CONNECTION_LIMIT = 4430
    REVOKED = 4451
    INTERNAL = 4500
    UNAVAILABLE = 4503

    @property
    def reconnect(self) -> bool:
        """Whether a client is to connect again."""
        return 4410 <= self <= 4429 or 4500 <= self <= 4599

    @property
    def reason(self) -> str:
        """One ASCII word."""
        return _REASONS[self]


_REASONS = {
    CloseCode.NORMAL: "normal",
    CloseCode.UNSUPPORTED_DATA: "unsupported_data",
    CloseCode.TOO_BIG: "too_big",
    CloseCode.BAD_FRAME: "bad_frame",
    CloseCode.UNAUTHENTICATED: "unauthenticated",
    CloseCode.FORBIDDEN: "forbidden",
    CloseCode.SUBPROTOCOL: "subprotocol",
    CloseCode.REPLACED: "replaced",
    CloseCode.CONNECT_TIMEOUT: "connect_timeout",
    CloseCode.HEARTBEAT: "heartbeat",
    CloseCode.TOKEN_EXPIRED: "token_expired",
    CloseCode.DRAINING: "draining",
    CloseCode.SLOW_CONSUMER: "slow_consumer",
    CloseCode.RATE_LIMIT: "rate_limit",
    CloseCode.CONNECTION_LIMIT: "connection_limit",
    CloseCode.REVOKED: "revoked",
    CloseCode.INTERNAL: "internal",
    CloseCode.UNAVAILABLE: "unavailable",
}


class Since(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """The last event that a client has; without an epoch in the present one."""

    seq: Seq
    epoch: Epoch = ""


class Resume(Since, kw_only=True):
    """A subscription that a client had before, and how far it came."""

    ch: ChannelName


class ClientInfo(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """Who connects. A later connection of the same `instance` replaces this one."""

    name: Annotated[str, Meta(max_length=255)] = ""
    instance: Annotated[str, Meta(max_length=255)] = ""


class Frame(msgspec.Struct, tag_field="t", forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    """A client's frame. With an `id` it gets exactly one reply of that id."""

    id: CommandId | None = None


class Connect(Frame, tag="connect"):
    """Opens the conversation; `resume` subscribes again to what the client was subscribed to."""

    token: Annotated[str, Meta(max_length=8192)] | None = None
    client: ClientInfo = msgspec.field(default_factory=ClientInfo)
    caps: Annotated[list[Annotated[str, Meta(max_length=64)]], Meta(max_length=16)] = []
    resume: Annotated[list[Resume], Meta(max_length=SUBSCRIPTIONS)] = []


class Subscribe(Frame, tag="subscribe"):
    """Subscribes to a channel: behind a position (`since`), or from `now`, `earliest` or `last:N`.

    `on_gap` says what to do when what follows the position is gone. `types` are patterns such as `message.*`.
    """

    ch: ChannelName
    since: Since | None = None
    from_: Annotated[str, Meta(pattern=r"^(now|earliest|last:[0-9]{1,5})(?!\n)$")] | None = msgspec.field(
        default=None, name="from"
    )
    on_gap: OnGap = "latest"
    types: Annotated[list[Annotated[str, Meta(min_length=1, max_length=100)]], Meta(max_length=32)] = []


class Unsubscribe(Frame, tag="unsubscribe"):
    """Ends a subscription."""

    ch: ChannelName


class Ack(Frame, tag="ack"):
    """Acknowledges queued events: all up to `seq` of a lane that were sent, or single ones."""

    ch: ChannelName
    lane: Annotated[int, Meta(ge=0, le=2)] | None = None
    seq: Seq | None = None
    eids: Annotated[list[UUID], Meta(max_length=256)] = []


class Nack(Frame, tag="nack"):
    """Asks for a queued event again, after a delay."""

    ch: ChannelName
    eid: UUID
    delay_ms: Annotated[int, Meta(ge=0, le=86_400_000)] = 0


class History(Frame, tag="history"):
    """Reads a page of a channel without subscribing."""

    ch: ChannelName
    since: Since
    limit: Annotated[int, Meta(ge=1, le=200)] = 50


class Call(Frame, tag="call"):
    """Calls a method, as its REST twin does."""

    method: Annotated[str, Meta(max_length=100)]
    params: JsonObject = {}


class Auth(Frame, tag="auth"):
    """Renews the credentials in place."""

    token: Annotated[str, Meta(max_length=8192)]


class Presence(Frame, tag="presence"):
    """Asks who is in a session; `typing` says that the client's user types there, or does not."""

    ch: ChannelName
    typing: bool | None = None


class Ping(Frame, tag="ping"):
    """Asks whether the other side is there; a pong answers."""


class Pong(Frame, tag="pong"):
    """Answers a ping."""


ClientFrame = Connect | Subscribe | Unsubscribe | Ack | Nack | History | Call | Auth | Presence | Ping | Pong


class Heartbeat(msgspec.Struct):
    """A ping comes so often, and its pong is awaited so long; milliseconds."""

    ping_ms: int
    pong_ms: int


class Limits(msgspec.Struct):
    """Bytes of a frame, subscriptions of a connection, commands a second."""

    frame: int = FRAME_BYTES
    subscriptions: int = SUBSCRIPTIONS
    commands_per_second: int = COMMANDS_PER_SECOND


class Resumed(msgspec.Struct):
    """How a subscription goes on: as `subscribed`, or with the error's `code`."""

    ch: str
    recovered: bool
    epoch: str = ""
    seq: int = 0
    top: int = 0
    floor: int = 1
    code: str | UnsetType = UNSET


class ServerFrame(msgspec.Struct, tag_field="t", kw_only=True):
    """A frame of ours; `id` is that of the client's frame that it answers."""

    id: int | UnsetType = UNSET


class Welcome(ServerFrame, tag="welcome"):
    """The conversation is open. `expires_at` is when the credentials end, milliseconds; null for never."""

    conn: str
    user: str
    node: str
    heartbeat: Heartbeat
    expires_at: int | None
    limits: Limits
    resumed: list[Resumed]


class Subscribed(ServerFrame, tag="subscribed"):
    """Comes before the first event: events behind `seq` follow. `recovered` is false when some are gone."""

    ch: str
    epoch: str
    seq: int
    top: int
    floor: int
    recovered: bool


class Live(ServerFrame, tag="live"):
    """All that was kept has been sent; what comes now is new."""

    ch: str
    seq: int


class EpochChanged(ServerFrame, tag="epoch"):
    """The numbering has changed behind `seq`, the last event that was sent; or behind `rewound_to`, a lower number."""

    ch: str
    epoch: str
    seq: int
    rewound_to: int | UnsetType = UNSET


class GapFrame(ServerFrame, tag="gap"):
    """Events that are gone, from the first to the last of them; of a user's queue in that lane."""

    ch: str
    from_: int = msgspec.field(name="from")
    to: int
    reason: Literal["trimmed", "expired", "epoch"]
    lane: int | UnsetType = UNSET


class Reply(ServerFrame, tag="reply"):
    """The answer to a command."""

    data: JsonValue


class ErrorFrame(ServerFrame, tag="error"):
    """What was wrong; the connection goes on unless `bye` follows."""

    code: str
    status: int
    message: str
    retryable: bool
    ch: str | UnsetType = UNSET
    field: str | UnsetType = UNSET
    details: JsonObject | UnsetType = UNSET
    retry_after_ms: int | UnsetType = UNSET
    correlation_id: str | UnsetType = UNSET


class ServerPing(ServerFrame, tag="ping"):
    """Asks whether the client is there."""


class ServerPong(ServerFrame, tag="pong"):
    """Answers a client's ping."""


class AuthExpiring(ServerFrame, tag="auth_expiring"):
    """The credentials end in so many milliseconds: `auth` renews them."""

    in_ms: int


class Unsubscribed(ServerFrame, tag="unsubscribed"):
    """A subscription has ended: `requested`, `revoked` or `deleted`."""

    ch: str
    reason: str


class Drain(ServerFrame, tag="drain"):
    """The server is going to close the connection after so many milliseconds."""

    after_ms: int
    reason: str


class Bye(ServerFrame, tag="bye"):
    """The last frame before the socket is closed with `code`. `after_ms`: how long to wait before the next."""

    code: int
    reason: str
    reconnect: bool
    after_ms: int | UnsetType = UNSET


SERVER_FRAMES: tuple[type[msgspec.Struct], ...] = (
    Welcome, Subscribed, EventFrame, Live, EpochChanged, GapFrame, Reply, ErrorFrame,
    ServerPing, ServerPong, AuthExpiring, Unsubscribed, Drain, Bye,
)  # fmt: skip
