"""A message of a session. Messages form a tree: each follows its parent."""

from datetime import datetime
from enum import StrEnum
from typing import Annotated
from uuid import UUID

import msgspec
from msgspec import UNSET, Meta, UnsetType

from ai_agent.domain.errors import FieldError
from ai_agent.domain.fields import (
    BULK,
    Content,
    Input,
    JsonObject,
    StoredObject,
    StoredObjects,
    check_content,
    check_metadata,
)
from ai_agent.domain.pages import Filter, Page
from ai_agent.domain.resources import Resource
from ai_agent.domain.search import SearchQuery

ToolCalls = Annotated[list[JsonObject], Meta(max_length=128)]


class Role(StrEnum):
    """Who speaks."""

    USER = "user"
    ASSISTANT = "assistant"
    SYSTEM = "system"
    TOOL = "tool"


class Message(Resource):
    """What one of the speakers said."""

    id: UUID
    session_id: UUID
    role: Role
    content: str
    metadata: StoredObject
    tool_calls: StoredObjects
    parent_message_id: UUID | None
    agent_id: UUID | None
    execution_id: UUID | None
    position: int
    created_at: datetime
    updated_at: datetime


class FoundMessage(Message):
    """A message in a list; `snippet` is there when the list is a search."""

    snippet: str | UnsetType = UNSET


class MessagePage(Page):
    """Messages of a list."""

    items: list[FoundMessage]


class ThreadMessage(Message):
    """A message beside its siblings, which follow the same parent: how many, itself included, and its place from 0."""

    sibling_count: int
    sibling_index: int


class Thread(msgspec.Struct):
    """A message, the way to it from the root, and its direct replies; the nearest where there are too many."""

    ancestors: list[ThreadMessage]
    message: ThreadMessage
    replies: list[ThreadMessage]
    ancestors_truncated: bool
    replies_truncated: bool


class ReplaceMessage(Input):
    """PUT: what is absent goes back to its default."""

    content: Content
    role: Role = Role.USER
    metadata: JsonObject = {}
    tool_calls: ToolCalls = []

    def check(self) -> list[FieldError]:
        return check_content("content", self.content) + check_metadata(self.metadata)


class CreateMessage(ReplaceMessage):
    """A new message of a session."""

    parent_message_id: UUID | None = None


CreateMessages = Annotated[list[CreateMessage], Meta(min_length=1, max_length=BULK)]


class PatchMessage(Input):
    """JSON Merge Patch: what is absent stays, null clears."""

    content: Content | UnsetType = UNSET
    role: Role | UnsetType = UNSET
    metadata: JsonObject | None | UnsetType = UNSET
    tool_calls: ToolCalls | None | UnsetType = UNSET

    def check(self) -> list[FieldError]:
        return check_content("content", self.content) + check_metadata(self.metadata)


class MessageFilter(Filter, frozen=True, kw_only=True):
    """Of the messages of a session."""

    session_id: UUID
    role: Role | None = None
    parent_message_id: UUID | None = None
    search: SearchQuery | None = None


class SearchFilter(Filter, frozen=True, kw_only=True):
    """Of a search over all messages of an owner."""

    search: SearchQuery
    role: Role | None = None
    session_id: UUID | None = None
    agent_id: UUID | None = None


class HistoryEntry(msgspec.Struct, frozen=True):
    """One message of the branch that a run is fed."""

    role: Role
    content: str
