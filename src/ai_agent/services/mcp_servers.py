"""MCP servers: register, read, list, change, delete, try, sync."""

import math
from collections.abc import Sequence
from datetime import datetime
from functools import partial
from typing import Any
from uuid import UUID

import msgspec

from ai_agent.domain.errors import AIAgentError, Conflict, ExternalServiceError, FieldError, InvalidFields, NotFound
from ai_agent.domain.fields import JsonObject, StoredJson, merge_patch, new_id, now, to_json
from ai_agent.domain.identity import Principal
from ai_agent.domain.mcp_servers import (
    CreateMcpServer,
    McpServer,
    McpServerFilter,
    McpServerHealth,
    McpServerPage,
    McpServerStatus,
    McpServerTest,
    McpSync,
    PatchMcpServer,
    ReplaceMcpServer,
)
from ai_agent.domain.pages import PageRequest
from ai_agent.domain.resources import Versions
from ai_agent.domain.validation import read_as
from ai_agent.execution.mcp.failures import McpFailed
from ai_agent.execution.mcp.health import McpHealth
from ai_agent.execution.mcp.links import Links
from ai_agent.execution.mcp.pool import McpPool
from ai_agent.observability.tool_metrics import mcp_servers_are
from ai_agent.realtime.announcements import Announcements
from ai_agent.security.outbound import OutboundGuard
from ai_agent.security.secret_fields import NO_SECRETS, SecretFields, check_kept
from ai_agent.services import mcp_sync
from ai_agent.services.names import name_taken
from ai_agent.services.paging import Pager
from ai_agent.storage import mcp_servers, mcp_tools
from ai_agent.storage.database import Connection, Database, UniqueViolation
from ai_agent.storage.mcp_servers import Configuration


class McpServerService:
    def __init__(
        self,
        database: Database,
        pager: Pager,
        announcements: Announcements,
        secrets: SecretFields,
        guard: OutboundGuard,
        links: Links,
        pool: McpPool,
        health: McpHealth,
    ):
        self._database = database
        self._pager = pager
        self._announce = announcements
        self._secrets = secrets
        self._guard = guard
        self._links = links
        self._pool = pool
        self._health = health

    async def look(self) -> None:
        """Sets the gauge of servers by status: NaN while the database is away."""
        try:
            counts = {each.status: each.count for each in await mcp_servers.counts(self._database.reader)}
        except AIAgentError:
            mcp_servers_are({status.value: math.nan for status in McpServerStatus})
        else:
            mcp_servers_are({status.value: counts.get(status, 0) for status in McpServerStatus})

    async def create(self, principal: Principal, wanted: CreateMcpServer) -> McpServer:
        """Registers a server, which need not be there. Raises Conflict for a name that is taken, InvalidFields."""
        self._check(wanted)
        server = _server(new_id(), now(), wanted)
        secrets = self._secrets.seal(server.id, wanted.authentication.secrets, NO_SECRETS)
        async with self._database.unit_of_work() as rows:
            with name_taken("An MCP server", server.name):
                await mcp_servers.insert(rows, principal.subject, server, secrets)
        return server

    async def get(self, principal: Principal, server_id: UUID) -> McpServer:
        return found(await mcp_servers.get(self._database.reader, principal.subject, server_id))

    async def list(self, principal: Principal, wanted: McpServerFilter, request: PageRequest) -> McpServerPage:
        return await self._pager.page(McpServerPage, mcp_servers.LIST, principal.subject, wanted, request)

    async def replace(
        self, principal: Principal, server_id: UUID, wanted: ReplaceMcpServer, versions: Versions | None = None
    ) -> McpServer:
        """Raises PreconditionFailed when the server is in none of the `versions`; `patch` and `delete`, too."""
        async with self._database.unit_of_work() as rows:
            present = await _expected(rows, principal, server_id, versions)
            return await self._write(rows, principal, present, wanted)

    async def patch(
        self, principal: Principal, server_id: UUID, patch: PatchMcpServer, versions: Versions | None = None
    ) -> McpServer:
        """Raises InvalidFields when the result would be refused as a new server."""
        async with self._database.unit_of_work() as rows:
            present = await _expected(rows, principal, server_id, versions)
            return await self._write(rows, principal, present, _patched(present, patch))

    async def delete(self, principal: Principal, server_id: UUID, versions: Versions | None = None) -> None:
        """With its tools; agents that name them run without."""
        async with self._database.unit_of_work() as rows:
            await _expected(rows, principal, server_id, versions)
            await mcp_tools.delete(rows, principal.subject, server_id)
            await mcp_servers.delete(rows, principal.subject, server_id)
            rows.after_commit(partial(self._pool.forget, server_id))

    async def health(self, principal: Principal, server_id: UUID) -> McpServerHealth:
        """Asks the server now; one that is disabled is left alone."""
        asked = _configured(await mcp_servers.configuration(self._database.reader, principal.subject, server_id))
        latency = None
        if asked.enabled:
            server, latency = await self._health.check(asked)
        else:
            server = None
        server = server or await self.get(principal, server_id)
        return McpServerHealth(server.status, latency, server.last_error, server.last_seen_at)

    async def test(self, principal: Principal, wanted: CreateMcpServer) -> McpServerTest:
        """Tries a configuration without saving it. Whatever the server does is told; raises InvalidFields."""
        self._check(wanted)
        asked_id = new_id()
        secrets = self._secrets.seal(asked_id, wanted.authentication.secrets, NO_SECRETS)
        asked = _configuration(asked_id, principal.subject, wanted, secrets)
        try:
            listing = await self._pool.listing(asked, keep=False)
        except McpFailed as error:
            return McpServerTest(False, str(error), 0.0, None, {}, [])
        good, _ = mcp_sync.usable(listing.tools)
        return McpServerTest(True, None, listing.latency_ms, listing.version, listing.capabilities, list(good))

    async def sync(self, principal: Principal, server_id: UUID) -> McpSync:
        """Brings the tools here to those that the server lists now.

        Raises Conflict for a server that is disabled, ExternalServiceError for one that does not answer.
        """
        asked = _configured(await mcp_servers.configuration(self._database.reader, principal.subject, server_id))
        if not asked.enabled:
            raise Conflict("The MCP server is disabled", details={"status": McpServerStatus.DISABLED})
        try:
            listing = await self._pool.listing(asked)
        except McpFailed as error:
            await self._health.failed(asked, error)
            raise ExternalServiceError(str(error), service_name=asked.name, service_type="mcp_server") from error
        report = await self._write_tools(principal.subject, server_id, listing.tools)
        await self._health.answered(asked, listing)
        return report

    async def _write_tools(self, owner: str, server_id: UUID, listed: Sequence[Any]) -> McpSync:
        good, failed = mcp_sync.usable(listed)
        async with self._database.unit_of_work() as rows:
            server = found(await mcp_servers.get(rows, owner, server_id, for_update=True))
            present = await mcp_tools.of_server(rows, owner, server_id)
            taken = await mcp_tools.taken(rows, owner, mcp_sync.names_wanted(server.name, good))
            plan = mcp_sync.planned(server, present, good, failed, taken)
            try:
                await mcp_tools.write(rows, owner, plan.added, plan.changed)
            except UniqueViolation as error:
                raise Conflict("A tool took one of the names meanwhile: sync again") from error
        return plan.report

    def _check(self, wanted: CreateMcpServer) -> None:
        """Raises InvalidFields for what only the server knows: where it may go, and what it may run."""
        addresses = {
            "endpoint": wanted.endpoint,
            "health_check_url": wanted.health_check_url,
            "authentication.token_url": wanted.authentication.token_url,
        }
        faults = {name: self._guard.fault(url) for name, url in addresses.items() if url is not None}
        errors = [FieldError(name, fault) for name, fault in faults.items() if fault]
        if wanted.command is not None and wanted.command not in self._links.commands:
            errors.append(FieldError("command", "Is none of the commands that the operator allows", wanted.command))
        if errors:
            raise InvalidFields(errors)

    async def _write(
        self, rows: Connection, principal: Principal, present: McpServer, wanted: CreateMcpServer
    ) -> McpServer:
        self._check(wanted)
        before = read_as(_as_written(present), ReplaceMcpServer)
        check_kept(wanted.authentication.secrets, moved=wanted.destination != before.destination)
        configured = _configured(await mcp_servers.configuration(rows, principal.subject, present.id))
        secrets = self._secrets.seal(present.id, wanted.authentication.secrets, configured.secrets)
        server = _server(present.id, present.created_at, wanted)
        if _is_reached_alike(server, present) and bytes(secrets) == bytes(configured.secrets):
            server.status, server.last_error = present.status, present.last_error
        with name_taken("An MCP server", wanted.name):
            written = found(await mcp_servers.update(rows, principal.subject, server, secrets))
        rows.after_commit(partial(self._pool.forget, present.id))
        if written.status is not present.status:
            self._announce.mcp_server(rows, principal.subject, written, present.status)
        return written


async def _expected(rows: Connection, principal: Principal, server_id: UUID, versions: Versions | None) -> McpServer:
    """The server, locked until the transaction ends."""
    present = found(await mcp_servers.get(rows, principal.subject, server_id, for_update=True))
    present.expect(versions)
    return present


def _server(server_id: UUID, created_at: datetime, wanted: CreateMcpServer) -> McpServer:
    """A server that nobody has asked yet, as far as its configuration goes."""
    return McpServer(
        id=server_id,
        name=wanted.name,
        description=wanted.description,
        transport=wanted.transport,
        endpoint=wanted.endpoint,
        command=wanted.command,
        authentication=to_json(wanted.authentication.masked),
        capabilities=to_json({}),
        protocol_version=None,
        health_check_url=wanted.health_check_url,
        enabled=wanted.enabled,
        status=McpServerStatus.UNKNOWN if wanted.enabled else McpServerStatus.DISABLED,
        last_error=None,
        last_seen_at=None,
        tool_count=0,
        metadata=to_json(wanted.metadata),
        created_at=created_at,
        updated_at=now(),
    )


def _is_reached_alike(one: McpServer, other: McpServer) -> bool:
    """Whether what is known of how one server is holds for the other."""
    same = ("transport", "endpoint", "command", "health_check_url", "enabled")
    alike = msgspec.json.decode(one.authentication) == msgspec.json.decode(other.authentication)
    return alike and all(getattr(one, name) == getattr(other, name) for name in same)


def _configuration(server_id: UUID, owner: str, wanted: CreateMcpServer, secrets: StoredJson) -> Configuration:
    return Configuration(
        server_id,
        owner,
        wanted.name,
        wanted.transport,
        wanted.endpoint,
        wanted.command,
        to_json(wanted.authentication.masked),
        wanted.health_check_url,
        True,
        secrets,
        now(),
    )


def _patched(present: McpServer, patch: PatchMcpServer) -> ReplaceMcpServer:
    return read_as(merge_patch(_as_written(present), msgspec.to_builtins(patch)), ReplaceMcpServer)


def _as_written(server: McpServer) -> JsonObject:
    """The body of the PUT that would make this server."""
    values = {name: getattr(server, name) for name in ReplaceMcpServer.__struct_fields__}
    return dict(msgspec.json.decode(msgspec.json.encode(values)))


def found(server: McpServer | None) -> McpServer:
    if server is None:
        raise NotFound("MCP server not found")
    return server


def _configured(asked: Configuration | None) -> Configuration:
    if asked is None:
        raise NotFound("MCP server not found")
    return asked
