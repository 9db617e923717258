"""Who may listen to a channel: the owner of what it is about, and admins. What is somebody else's is not there.

A queue is its user's alone: who listens there takes something out of it.
"""

from collections.abc import Awaitable, Callable
from uuid import UUID

from ai_agent.domain.channels import Channel, ChannelKind, user_channel
from ai_agent.domain.errors import AuthorizationError
from ai_agent.domain.identity import Principal, Scope
from ai_agent.storage import agents, executions, sessions
from ai_agent.storage.database import Database, Reader

_NEEDED = {
    ChannelKind.EXECUTION: Scope.AGENTS_READ,
    ChannelKind.AGENT: Scope.AGENTS_READ,
    ChannelKind.SESSION: Scope.SESSIONS_READ,
    ChannelKind.PRESENCE: Scope.SESSIONS_READ,
    ChannelKind.TOPIC: Scope.TOPICS_READ,
}
_OWNER: dict[ChannelKind, Callable[[Reader, UUID], Awaitable[str | None]]] = {
    ChannelKind.EXECUTION: executions.owner,
    ChannelKind.AGENT: agents.owner,
    ChannelKind.SESSION: sessions.owner,
    ChannelKind.PRESENCE: sessions.owner,
}
_WITH_RUNS = {ChannelKind.SESSION, ChannelKind.USER}
_OF_RUNS = ("execution.", "tool.", "approval.")

Hidden = tuple[str, ...]
"""What the types of events begin with that a listener may not see."""


class ChannelAccess:
    def __init__(self, database: Database):
        self._database = database

    async def check(self, principal: Principal, channel: Channel) -> Hidden:
        """What of a channel is hidden from a listener.

        Raises AuthorizationError, the same for a channel that is not there.
        """
        needed = _NEEDED.get(channel.kind)
        if (needed and not principal.may(needed)) or not await self._is_theirs(principal, channel):
            raise AuthorizationError("There is no such channel, or it is not yours to listen to")
        runs_hidden = channel.kind in _WITH_RUNS and not principal.may(Scope.AGENTS_READ)
        return _OF_RUNS if runs_hidden else ()

    async def _is_theirs(self, principal: Principal, channel: Channel) -> bool:
        if channel.kind is ChannelKind.USER:
            return f"{channel.kind}:{channel.key}" == user_channel(principal.subject)
        if channel.kind not in _OWNER:
            return channel.kind in {ChannelKind.TOPIC, ChannelKind.SYSTEM}
        try:
            resource_id = UUID(channel.key)
        except ValueError:
            return False
        if str(resource_id) != channel.key:
            return False  # Another spelling of an id would be another channel.
        owner = await _OWNER[channel.kind](self._database.reader, resource_id)
        return owner is not None and (owner == principal.subject or principal.may(Scope.ADMIN))
