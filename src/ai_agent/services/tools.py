"""Tools: register, read, list, change, delete, invoke."""

from datetime import datetime
from uuid import UUID

import msgspec

from ai_agent.domain.errors import Conflict, FieldError, InvalidFields, NotFound
from ai_agent.domain.fields import KEPT_SECRET, JsonObject, StoredJson, merge_patch, new_id, now, to_json
from ai_agent.domain.http_tools import HttpConfig, header_field
from ai_agent.domain.idempotency import IdempotencyKey
from ai_agent.domain.identity import Principal
from ai_agent.domain.pages import PageRequest
from ai_agent.domain.resources import Versions
from ai_agent.domain.tools import (
    CreateTool,
    InvokeTool,
    PatchTool,
    ReplaceTool,
    Tool,
    ToolFilter,
    ToolKind,
    ToolOutput,
    ToolPage,
)
from ai_agent.domain.validation import joined, read_as
from ai_agent.execution.tools import INTERRUPTED, Call, Toolbox, path_of, perform
from ai_agent.security.outbound import OutboundGuard
from ai_agent.security.secret_fields import NO_SECRETS, SecretFields, check_kept
from ai_agent.services.names import name_taken
from ai_agent.services.paging import Pager
from ai_agent.storage import tools
from ai_agent.storage.database import Connection, Database

_OWNERS = {"enabled", "requires_approval", "metadata"}
"""What the owner of an MCP server's tool may set."""


class ToolService:
    def __init__(self, database: Database, pager: Pager, secrets: SecretFields, guard: OutboundGuard, toolbox: Toolbox):
        self._database = database
        self._pager = pager
        self._secrets = secrets
        self._guard = guard
        self._toolbox = toolbox

    async def create(self, principal: Principal, wanted: CreateTool) -> Tool:
        """Raises Conflict for a name that is taken, InvalidFields; `replace` and `patch`, too."""
        if wanted.kind is ToolKind.MCP:
            raise InvalidFields([FieldError("kind", "Tools of kind mcp are made by a sync of their server")])
        tool = _tool(new_id(), now(), wanted)
        tool.config, secrets = self._stored(tool.id, wanted, NO_SECRETS)
        async with self._database.unit_of_work() as rows:
            with name_taken("A tool", tool.name):
                await tools.insert(rows, principal.subject, tool, secrets)
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
            return await self._write(rows, principal, present, wanted)

    async def patch(
        self, principal: Principal, tool_id: UUID, patch: PatchTool, versions: Versions | None = None
    ) -> Tool:
        """Raises InvalidFields when the result would be refused as a new tool."""
        async with self._database.unit_of_work() as rows:
            present = await _expected(rows, principal, tool_id, versions)
            return await self._write(rows, principal, present, _patched(present, patch))

    async def delete(self, principal: Principal, tool_id: UUID, versions: Versions | None = None) -> None:
        async with self._database.unit_of_work() as rows:
            await _expected(rows, principal, tool_id, versions)
            await tools.delete(rows, principal.subject, tool_id)

    async def invoke(
        self, principal: Principal, tool_id: UUID, wanted: InvokeTool, key: IdempotencyKey | None = None
    ) -> ToolOutput:
        """Calls a tool for its owner, who needs no approval of their own. What fails in the tool is its output.

        A `key` whose first request was lost calls only what may be called again. Raises NotFound, InvalidFields for
        arguments that do not fit, and Conflict for a tool that is disabled or that the client runs.
        """
        spec = await tools.spec(self._database.reader, principal.subject, tool_id)
        if spec is None:
            raise NotFound("Tool not found")
        tool = self._toolbox.tool(spec)
        if tool is None or tool.operation is None:
            why = "The client runs it: there is nothing to call here" if spec.kind is ToolKind.CLIENT else None
            raise Conflict(why or "The tool is disabled, or not there any more", details={"kind": spec.kind})
        if faults := tool.all_faults(wanted.arguments):
            raise InvalidFields([FieldError(joined("arguments", path_of(path)), message) for path, message in faults])
        if key is not None and key.interrupted and not tool.idempotent:
            return ToolOutput(INTERRUPTED, is_error=True, truncated=False, duration_ms=0)
        outcome = await perform(tool, Call(wanted.arguments, principal.subject))
        return ToolOutput(outcome.output, outcome.is_error, outcome.truncated, outcome.duration_ms)

    async def _write(self, rows: Connection, principal: Principal, present: Tool, wanted: CreateTool) -> Tool:
        if ToolKind.MCP in (present.kind, wanted.kind):
            synced = _synced(present, wanted)
            return found(await tools.update(rows, principal.subject, synced, NO_SECRETS))
        sealed = await tools.secrets(rows, principal.subject, present.id) or NO_SECRETS
        tool = _tool(present.id, present.created_at, wanted)
        if wanted.kind is ToolKind.HTTP and present.kind is ToolKind.HTTP:
            before, after = _http(msgspec.json.decode(present.config)), _http(wanted.config)
            check_kept(_secrets_of(after), moved=after.origin != before.origin)
        tool.config, secrets = self._stored(present.id, wanted, sealed)
        with name_taken("A tool", wanted.name):
            return found(await tools.update(rows, principal.subject, tool, secrets))

    def _stored(self, tool_id: UUID, wanted: CreateTool, present: StoredJson) -> tuple[StoredJson, StoredJson]:
        """The settings as they are stored and shown, and the sealed secrets."""
        if wanted.kind is not ToolKind.HTTP:
            return to_json(wanted.config), NO_SECRETS
        config = _http(wanted.config)
        if fault := self._guard.fault(config.url):
            raise InvalidFields([FieldError("config.url", fault)])
        secrets = self._secrets.seal(tool_id, _secrets_of(config), present)
        shown = {"headers": dict.fromkeys(config.headers, KEPT_SECRET)} if config.headers else {}
        return to_json(wanted.config | shown), secrets


async def _expected(rows: Connection, principal: Principal, tool_id: UUID, versions: Versions | None) -> Tool:
    """The tool, locked until the transaction ends."""
    present = found(await tools.get(rows, principal.subject, tool_id, for_update=True))
    present.expect(versions)
    return present


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


def _synced(present: Tool, wanted: CreateTool) -> Tool:
    """A tool of an MCP server with what its owner may set. Raises InvalidFields for what comes from the server."""
    written, before = msgspec.to_builtins(wanted), _as_written(present)
    foreign = [name for name in before if name not in _OWNERS and written[name] != before[name]]
    if foreign:
        raise InvalidFields([FieldError(name, "Comes from the tool's MCP server") for name in foreign])
    metadata = to_json(wanted.metadata)
    own = {"enabled": wanted.enabled, "requires_approval": wanted.requires_approval, "metadata": metadata}
    return msgspec.structs.replace(present, **own, updated_at=now())


def _http(config: JsonObject) -> HttpConfig:
    return msgspec.convert(config, HttpConfig)


def _secrets_of(config: HttpConfig) -> dict[str, str]:
    return {header_field(name): value for name, value in config.headers.items()}


def _patched(present: Tool, patch: PatchTool) -> ReplaceTool:
    return read_as(merge_patch(_as_written(present), msgspec.to_builtins(patch)), ReplaceTool)


def _as_written(tool: Tool) -> JsonObject:
    """The body of the PUT that would make this tool."""
    own = {"schema"} if tool.kind is ToolKind.BUILTIN else set()
    fields = [name for name in ReplaceTool.__struct_fields__ if name not in own]
    values = msgspec.json.encode({name: getattr(tool, name) for name in fields})
    return dict(msgspec.json.decode(values))


def found(tool: Tool | None) -> Tool:
    if tool is None:
        raise NotFound("Tool not found")
    return tool
