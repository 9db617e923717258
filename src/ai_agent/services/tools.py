"""Tools: register, read, list, change, delete."""

import contextlib
from collections.abc import Iterator
from datetime import datetime
from uuid import UUID

import msgspec

from ai_agent.domain.errors import Conflict, InvalidFields, NotFound
from ai_agent.domain.fields import JsonObject, merge_patch, new_id, now, to_json
from ai_agent.domain.identity import Principal
from ai_agent.domain.pages import PageRequest
from ai_agent.domain.resources import Versions
from ai_agent.domain.tools import CreateTool, PatchTool, ReplaceTool, Tool, ToolFilter, ToolKind, ToolPage
from ai_agent.domain.validation import field_errors
from ai_agent.services.paging import Pager
from ai_agent.storage import tools
from ai_agent.storage.database import Connection, Database, UniqueViolation


class ToolService:
    def __init__(self, database: Database, pager: Pager):
        self._database = database
        self._pager = pager

    async def create(self, principal: Principal, wanted: CreateTool) -> Tool:
        """Raises Conflict for a name that is taken; `replace` and `patch`, too."""
        tool = _tool(new_id(), now(), wanted)
        async with self._database.unit_of_work() as rows:
            with _name_taken(tool.name):
                await tools.insert(rows, principal.subject, tool)
        return tool

    async def get(self, principal: Principal, tool_id: UUID) -> Tool:
        return found(await tools.get(self._database.reader, principal.subject, tool_id))

    async def list(self, principal: Principal, wanted: ToolFilter, request: PageRequest) -> ToolPage:
        return await self._pager.page(ToolPage, tools.LIST, principal.subject, wanted, request)

    async def replace(
        self, principal: Principal, tool_id: UUID, wanted: ReplaceTool, versions: Versions | None = None
    ) -> Tool:
        """Raises PreconditionFailed when the tool is in none of the `versions`; `patch` and `delete`, too."""
        async with self._database.unit_of_work() as rows:
            present = await _expected(rows, principal, tool_id, versions)
            return await _write(rows, principal, present, wanted)

    async def patch(
        self, principal: Principal, tool_id: UUID, patch: PatchTool, versions: Versions | None = None
    ) -> Tool:
        """Raises InvalidFields when the result would be refused as a new tool."""
        async with self._database.unit_of_work() as rows:
            present = await _expected(rows, principal, tool_id, versions)
            return await _write(rows, principal, present, _patched(present, patch))

    async def delete(self, principal: Principal, tool_id: UUID, versions: Versions | None = None) -> None:
        async with self._database.unit_of_work() as rows:
            await _expected(rows, principal, tool_id, versions)
            await tools.delete(rows, principal.subject, tool_id)


async def _expected(rows: Connection, principal: Principal, tool_id: UUID, versions: Versions | None) -> Tool:
    """The tool, locked until the transaction ends."""
    present = found(await tools.get(rows, principal.subject, tool_id, for_update=True))
    present.expect(versions)
    return present


async def _write(rows: Connection, principal: Principal, present: Tool, wanted: CreateTool) -> Tool:
    with _name_taken(wanted.name):
        return found(await tools.update(rows, principal.subject, _tool(present.id, present.created_at, wanted)))


def _tool(tool_id: UUID, created_at: datetime, wanted: CreateTool) -> Tool:
    return Tool(
        id=tool_id,
        name=wanted.name,
        description=wanted.description,
        schema=to_json(wanted.whole_schema),
        kind=wanted.kind,
        config=to_json(wanted.config),
        mcp_server_id=None,
        enabled=wanted.enabled,
        requires_approval=wanted.requires_approval,
        metadata=to_json(wanted.metadata),
        created_at=created_at,
        updated_at=now(),
    )


def _patched(present: Tool, patch: PatchTool) -> ReplaceTool:
    merged = merge_patch(_as_written(present), msgspec.to_builtins(patch))
    try:
        return msgspec.convert(merged, ReplaceTool)
    except (msgspec.ValidationError, InvalidFields):
        raise InvalidFields(list(field_errors(merged, ReplaceTool))) from None


def _as_written(tool: Tool) -> JsonObject:
    """The body of the PUT that would make this tool."""
    own = {"schema"} if tool.kind is ToolKind.BUILTIN else set()
    fields = [name for name in ReplaceTool.__struct_fields__ if name not in own]
    values = msgspec.json.encode({name: getattr(tool, name) for name in fields})
    return dict(msgspec.json.decode(values))


@contextlib.contextmanager
def _name_taken(name: str) -> Iterator[None]:
    try:
        yield
    except UniqueViolation as error:
        raise Conflict(f"A tool named {name} exists already", details={"field": "name"}) from error


def found(tool: Tool | None) -> Tool:
    if tool is None:
        raise NotFound("Tool not found")
    return tool
