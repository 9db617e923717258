"""Who is in a session: whose sockets listen to its presence, on whichever node."""

import msgspec


class Present(msgspec.Struct, frozen=True):
    """Somebody who is in a session; `since` is milliseconds since the epoch."""

    user_id: str
    since: int
    typing: bool
