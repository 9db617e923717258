"""The builtin tool `search_messages`: what its owner ever said, or was told, as a search over all sessions finds it."""

from html import unescape
from uuid import UUID

from ai_agent.domain.errors import InvalidFields, ServiceUnavailable
from ai_agent.domain.fields import JsonObject
from ai_agent.domain.messages import Message, SearchFilter
from ai_agent.domain.search import SearchQuery, parse, snippet
from ai_agent.execution.tools import Call, ToolFailed
from ai_agent.storage import messages
from ai_agent.storage.database import Database
from ai_agent.storage.keyset import Bounds
from ai_agent.storage.search import RankedSearch

FOUND = 10
"""How many hits are told unless more are asked for."""


class MessageSearch:
    def __init__(self, database: Database):
        self._database = database
        self._ranked = RankedSearch(messages.LIST, database.patient)

    async def __call__(self, call: Call) -> JsonObject:
        try:
            query = parse(call.arguments["query"], "query")
            session = call.arguments.get("session_id")
            wanted = SearchFilter(search=query, session_id=None if session is None else UUID(session))
            found = await self._found(call.owner_id, wanted, call.arguments.get("limit", FOUND))
        except InvalidFields as error:
            raise ToolFailed("; ".join(f"{fault.field}: {fault.message}" for fault in error.errors)) from error
        except ValueError as error:
            raise ToolFailed("session_id is no id of a session") from error
        except ServiceUnavailable as error:
            raise ToolFailed(error.message) from error
        return {"messages": [_told(message, query) for message in found]}

    async def _found(self, owner: str, wanted: SearchFilter, limit: int) -> list[Message]:
        reader = self._database.reader
        hits = await self._ranked.page(reader, owner, wanted, "rank", descending=True, bounds=Bounds(limit))
        rows = await messages.get_all(reader, owner, [hit.id for hit in hits])
        return [rows[hit.id] for hit in hits if hit.id in rows]


def _told(message: Message, query: SearchQuery) -> JsonObject:
    marked = snippet(message.content, query)
    return {
        "message_id": str(message.id),
        "session_id": str(message.session_id),
        "role": message.role,
        "created_at": message.created_at.isoformat(timespec="seconds"),
        "snippet": unescape(marked.replace("<mark>", "").replace("</mark>", "")),
    }
