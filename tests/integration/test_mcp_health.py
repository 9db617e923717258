"""Who asks a registered MCP server, and what is written down of it: on both databases, without a server."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any
from uuid import UUID

import pytest

from ai_agent.domain.fields import new_id, now, to_json
from ai_agent.domain.mcp_servers import McpServer, McpServerStatus, Transport
from ai_agent.execution.mcp.health import CHECK_SECONDS, MAX_RETRY_SECONDS, RETRY_SECONDS, wait_seconds
from ai_agent.security.secret_fields import NO_SECRETS
from ai_agent.storage import mcp_servers
from ai_agent.storage.database import Database
from ai_agent.storage.engine import create_database
from ai_agent.storage.mcp_servers import Checked, Configuration
from tests.conftest import prepare

OWNER = "owner"


def play(url: str, scenario: Callable[[Database, UUID], Coroutine[Any, Any, None]]) -> None:
    prepare(url)

    async def run() -> None:
        database = create_database(url, pool_size=4, statement_timeout=5)
        await database.open()
        try:
            async with database.unit_of_work() as rows:
                server = registered()
                await mcp_servers.insert(rows, OWNER, server, NO_SECRETS)
            await scenario(database, server.id)
            async with database.unit_of_work() as rows:
                await mcp_servers.delete(rows, OWNER, server.id)
        finally:
            await database.close()

    asyncio.run(run())


def registered() -> McpServer:
    at, nothing = now(), to_json({})
    endpoint = "https://mcp.example"
    told = (nothing, None, None, True, McpServerStatus.UNKNOWN, None, None, 0, nothing, at, at)
    identity = new_id()
    return McpServer(
        identity, str(identity), None, Transport.STREAMABLE_HTTP, endpoint, None, to_json({"type": "none"}), *told
    )


async def take(database: Database, server_id: UUID, seconds: float = 60) -> Configuration | None:
    async with database.unit_of_work() as rows:
        return await mcp_servers.take(rows, server_id, seconds)


def test_of_many_that_want_to_ask_one_does(database_url: str) -> None:
    async def scenario(database: Database, server_id: UUID) -> None:
        assert await mcp_servers.due(database.reader, 10) == [server_id]
        taken = await asyncio.gather(*(take(database, server_id) for _ in range(8)))
        (asked,) = [one for one in taken if one is not None]
        assert (asked.id, asked.owner_id, asked.endpoint) == (server_id, OWNER, "https://mcp.example")
        assert await mcp_servers.due(database.reader, 10) == []

    play(database_url, scenario)


def test_who_dies_while_asking_leaves_it_to_the_others(database_url: str) -> None:
    async def scenario(database: Database, server_id: UUID) -> None:
        assert await take(database, server_id, 0.2)
        assert await take(database, server_id) is None
        await asyncio.sleep(0.4)
        assert await take(database, server_id) is not None

    play(database_url, scenario)


def test_what_was_asked_of_an_older_configuration_is_not_written_down(database_url: str) -> None:
    async def scenario(database: Database, server_id: UUID) -> None:
        asked = await take(database, server_id)
        assert asked is not None
        async with database.unit_of_work() as rows:
            present = await mcp_servers.get(rows, OWNER, server_id)
            assert present is not None
            present.endpoint, present.updated_at = "https://other.example", now()
            await mcp_servers.update(rows, OWNER, present, NO_SECRETS)
        async with database.unit_of_work() as rows:
            assert await mcp_servers.standing(rows, asked) is None
            checked = Checked(McpServerStatus.CONNECTED, 0, None, now())
            assert await mcp_servers.keep(rows, asked, checked, 60) is None
        # The new one is to be asked at once.
        assert await mcp_servers.due(database.reader, 10) == [server_id]

    play(database_url, scenario)


def test_a_check_that_failed_leaves_what_was_known(database_url: str) -> None:
    async def scenario(database: Database, server_id: UUID) -> None:
        asked = await take(database, server_id)
        assert asked is not None
        good = Checked(McpServerStatus.CONNECTED, 0, None, now(), to_json({"tools": {}}), "2026-07-28", 7)
        bad = Checked(McpServerStatus.DEGRADED, 1, "It is away")
        for checked in (good, bad):
            async with database.unit_of_work() as rows:
                await mcp_servers.keep(rows, asked, checked, 60)
        server = await mcp_servers.get(database.reader, OWNER, server_id)
        assert server is not None
        assert (server.status, server.last_error) == (McpServerStatus.DEGRADED, "It is away")
        known = (bytes(server.capabilities), server.protocol_version, server.tool_count)
        assert known == (b'{"tools":{}}', "2026-07-28", 7)
        assert server.last_seen_at is not None

    play(database_url, scenario)


@pytest.mark.parametrize(
    ("failures", "base"), [(0, CHECK_SECONDS), (1, RETRY_SECONDS), (2, 4), (5, 32), (50, MAX_RETRY_SECONDS)]
)
def test_the_longer_a_server_is_away_the_more_seldom_it_is_asked(failures: int, base: float) -> None:
    waits = {wait_seconds(failures) for _ in range(50)}
    assert all(base <= wait <= base * 1.25 for wait in waits)
    assert len(waits) > 40
