"""What is told of a change, and on which channels. Each is told in the transaction that makes it.

The caller holds the row that a channel is about: of `session:` the session's, of `agent:` the agent's.
"""

from typing import Any, Protocol
from uuid import UUID

from ai_agent.domain.agents import Agent, AgentStatus
from ai_agent.domain.channels import agent_channel, execution_channel, presence_channel, session_channel
from ai_agent.domain.event_data import DeletedData, EndedData, MessageDeletedData, shown
from ai_agent.domain.events import TERMINAL, EventType
from ai_agent.domain.executions import Usage
from ai_agent.domain.inbox import Lane
from ai_agent.domain.mcp_servers import McpServer, McpServerStatus, McpServerStatusData
from ai_agent.domain.messages import Message
from ai_agent.domain.sessions import Session, SessionStatus
from ai_agent.realtime.publisher import Event, Publisher
from ai_agent.storage import agents, sessions
from ai_agent.storage.database import Connection
from ai_agent.storage.statements import Statement


class Run(Protocol):
    """An execution, whoever knows it."""

    @property
    def id(self) -> UUID: ...
    @property
    def session_id(self) -> UUID: ...
    @property
    def agent_id(self) -> UUID: ...


class Owned(Run, Protocol):
    @property
    def owner_id(self) -> str: ...


class Announcements:
    def __init__(self, publisher: Publisher):
        self._publisher = publisher

    def run(self, rows: Connection, run: Run, kind: EventType, data: Any, *, fence: int = 0) -> None:
        """A change of a run's state, to those who watch it or its session; starts and ends to who watches its agent."""
        event = (kind, data)
        self._publisher.record(rows, execution_channel(run.id), event, fence=fence)
        self._publisher.record(rows, session_channel(run.session_id), event)
        if kind is EventType.STARTED or kind in TERMINAL:
            self._publisher.record(rows, agent_channel(run.agent_id), event)

    def ended(self, rows: Connection, run: Owned, kind: EventType, data: Any, *, fence: int = 0) -> None:
        """The end of a run, also to its owner, who may be away."""
        self.run(rows, run, kind, data, fence=fence)
        self._publisher.queue(
            rows, run.owner_id, Lane.URGENT if kind is EventType.FAILED else Lane.NORMAL, (kind, data)
        )

    def approvals(self, rows: Connection, run: Owned, *events: Event, fence: int = 0) -> None:
        """Calls of tools that wait for a decision, or do so no more: also to who may decide, who may be away."""
        self._publisher.record(rows, execution_channel(run.id), *events, fence=fence)
        self._publisher.record(rows, session_channel(run.session_id), *events)
        self._publisher.queue(rows, run.owner_id, Lane.URGENT, *events)

    def run_deleted(self, rows: Connection, run: Run, *, live: bool) -> None:
        """A run that goes with its session: it is forgotten, and a live one is cancelled."""
        farewell = (EventType.CANCELLED, EndedData(run.id, run.session_id, run.agent_id, None, Usage(), 0))
        self._publisher.forget(rows, execution_channel(run.id), farewell if live else None)
        if live:
            self._publisher.record(rows, agent_channel(run.agent_id), farewell)

    def message(self, rows: Connection, kind: EventType, *made: Message) -> None:
        """Messages of one session that were created or updated."""
        if made:
            events: list[Event] = [(kind, shown(message)) for message in made]
            self._publisher.record(rows, session_channel(made[0].session_id), *events)

    def message_deleted(self, rows: Connection, message: Message) -> None:
        data = MessageDeletedData(message.id, message.session_id, message.parent_message_id)
        self._publisher.record(rows, session_channel(message.session_id), (EventType.MESSAGE_DELETED, data))

    def session(self, rows: Connection, kind: EventType, session: Session) -> None:
        self._publisher.record(rows, session_channel(session.id), (kind, session))

    async def write_session(self, insert: Statement[Any], session: Session, **values: Any) -> None:
        """Stores a new session, and tells of it."""
        event = (EventType.SESSION_CREATED, session)
        await self._publisher.write(insert, session_channel(session.id), event, **values)

    def session_deleted(self, rows: Connection, session_id: UUID) -> None:
        farewell = (EventType.SESSION_DELETED, DeletedData(session_id))
        self._publisher.forget(rows, session_channel(session_id), farewell)
        self._publisher.forget(rows, presence_channel(session_id), farewell)

    async def session_is(self, rows: Connection, session_id: UUID, status: SessionStatus) -> None:
        """Sets the status, and tells of it when it was another one."""
        changed = await sessions.set_status(rows, session_id, status)
        if changed is not None:
            self.session(rows, EventType.SESSION_UPDATED, changed)

    def agent(self, rows: Connection, kind: EventType, agent: Agent) -> None:
        self._publisher.record(rows, agent_channel(agent.id), (kind, shown(agent)))

    def agent_deleted(self, rows: Connection, agent_id: UUID) -> None:
        farewell = (EventType.AGENT_DELETED, DeletedData(agent_id))
        self._publisher.forget(rows, agent_channel(agent_id), farewell)

    def mcp_server(self, rows: Connection, owner: str, server: McpServer, previous: McpServerStatus) -> None:
        """What a server has become, to its owner."""
        data = McpServerStatusData(server.id, server.name, server.status, previous, server.last_error)
        self._publisher.queue(rows, owner, Lane.BULK, (EventType.MCP_SERVER_STATUS, data))

    async def agent_is(self, rows: Connection, agent_id: UUID, otherwise: AgentStatus) -> None:
        """Sets the status that the agent's runs make, `otherwise` without one, and tells of it when it was another."""
        changed = await agents.set_status(rows, agent_id, otherwise)
        if changed is not None:
            self.agent(rows, EventType.AGENT_UPDATED, changed)
