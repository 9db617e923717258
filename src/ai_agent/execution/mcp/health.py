"""Whether registered MCP servers are there: asked in the background, and told to their owners when it changes.

Every process with a worker looks. Who asks a server moves its `next_check_at` ahead, on the database's clock, so that
one asks at a time; one that dies while it does leaves it to the others.
"""

import asyncio
import random
import time
from collections.abc import Callable
from uuid import UUID

import msgspec
import structlog

from ai_agent.background import cancel_and_wait
from ai_agent.domain.fields import now, to_json
from ai_agent.domain.mcp_servers import McpServer, McpServerStatus
from ai_agent.execution.mcp.failures import McpFailed, McpLost
from ai_agent.execution.mcp.pool import Listing, McpPool
from ai_agent.observability.tool_metrics import MCP_CHECKS
from ai_agent.realtime.announcements import Announcements
from ai_agent.security.outbound import OutboundGuard, OutboundRefused
from ai_agent.storage import mcp_servers
from ai_agent.storage.database import Database
from ai_agent.storage.mcp_servers import Checked, Configuration, Standing

CHECK_SECONDS = 60.0
"""From one check to the next while a server answers."""
RETRY_SECONDS = 2.0
"""Behind the first check that fails; each wait is twice the one before, up to ten minutes."""
MAX_RETRY_SECONDS = 600.0
PATIENCE = 3
"""A server that answered lately is unreachable when so many checks in a row have failed."""
HELD_SECONDS = 45.0
"""For so long a process that has begun a check keeps others from it: longer than a check may take."""
LOOK_SECONDS = 1.0
AT_ONCE = 8
URL_SECONDS = 5.0
URL_BYTES = 64 * 1024

log = structlog.get_logger()


class McpHealth:
    def __init__(self, database: Database, pool: McpPool, guard: OutboundGuard, announcements: Announcements):
        self._database = database
        self._pool = pool
        self._guard = guard
        self._announce = announcements
        self._looking: asyncio.Task[None] | None = None
        self._checks: set[asyncio.Task[None]] = set()

    def start(self) -> None:
        self._looking = asyncio.create_task(self._look_for_ever())

    async def close(self) -> None:
        await cancel_and_wait(self._looking, *self._checks)

    async def _look_for_ever(self) -> None:
        while True:
            try:
                for server_id in await mcp_servers.due(self._database.reader, AT_ONCE - len(self._checks)):
                    await self._begin(server_id)
            except Exception:
                log.exception("mcp_health_failed")
            await asyncio.sleep(LOOK_SECONDS)

    async def _begin(self, server_id: UUID) -> None:
        async with self._database.unit_of_work() as rows:
            asked = await mcp_servers.take(rows, server_id, HELD_SECONDS)
        if asked is not None:
            check = asyncio.create_task(self._check_apart(asked))
            self._checks.add(check)
            check.add_done_callback(self._checks.discard)

    async def _check_apart(self, asked: Configuration) -> None:
        try:
            await self.check(asked)
        except Exception:
            log.exception("mcp_check_failed", mcp_server_id=str(asked.id))  # The next one comes when its time is over.

    async def check(self, asked: Configuration) -> tuple[McpServer | None, float | None]:
        """Asks a server now, and writes down how it is: the row, None when it was changed since, and milliseconds."""
        begun = time.monotonic()
        try:
            listing = None
            if asked.health_check_url is None:
                listing = await self._pool.listing(asked, keep=False)
            else:
                await self._ask_url(asked.health_check_url)
        except McpFailed as error:
            return await self.failed(asked, error), None
        took = round((time.monotonic() - begun) * 1000, 3)
        return await self.answered(asked, listing), took

    async def _ask_url(self, url: str) -> None:
        """Raises McpLost. No credentials go there: it may be another server's address."""
        import httpx2

        from ai_agent.security.outbound_http import guarded_client

        try:
            async with (
                asyncio.timeout(URL_SECONDS),
                guarded_client(self._guard, max_bytes=URL_BYTES, timeout=httpx2.Timeout(URL_SECONDS)) as http,
                http.stream("GET", url) as answer,
            ):
                if not answer.is_success:
                    raise McpLost(f"The health check answered {answer.status_code}")
        except OutboundRefused as error:
            raise McpLost(f"The health check: {error}") from error
        except (TimeoutError, httpx2.HTTPError, httpx2.InvalidURL) as error:
            raise McpLost("The health check cannot be reached") from error

    async def answered(self, asked: Configuration, listing: Listing | None) -> McpServer | None:
        """Writes down that a server is there; None when it was changed or deleted since."""

        checked = Checked(McpServerStatus.CONNECTED, 0, None, now())
        if listing is not None:
            checked = msgspec.structs.replace(
                checked,
                capabilities=to_json(listing.capabilities),
                protocol_version=listing.version,
                tool_count=len(listing.tools),
            )
        return await self._keep(asked, lambda _: checked)

    async def failed(self, asked: Configuration, error: McpFailed) -> McpServer | None:
        """Writes down that a server was not of use; None when it was changed or deleted since."""
        return await self._keep(asked, lambda before: _after_failure(before, str(error)))

    async def _keep(self, asked: Configuration, made: Callable[[Standing], Checked]) -> McpServer | None:
        async with self._database.unit_of_work() as rows:
            before = await mcp_servers.standing(rows, asked)
            if before is None:
                return None
            checked = made(before)
            server = await mcp_servers.keep(rows, asked, checked, wait_seconds(checked.failures))
            MCP_CHECKS.labels(checked.status.value).inc()
            if server is not None and server.status is not before.status:
                log.info("mcp_server_status", mcp_server_id=str(asked.id), status=server.status)
                self._announce.mcp_server(rows, asked.owner_id, server, before.status)
            return server


def _after_failure(before: Standing, error: str) -> Checked:
    failures = before.failures + 1
    was_there = before.status in {McpServerStatus.CONNECTED, McpServerStatus.DEGRADED}
    lately = was_there and failures < PATIENCE
    return Checked(McpServerStatus.DEGRADED if lately else McpServerStatus.UNREACHABLE, failures, error)


def wait_seconds(failures: int) -> float:
    """From a check to the next one: up to a quarter more by chance, so that servers are not asked all at once."""
    base = min(RETRY_SECONDS * 2.0 ** min(failures - 1, 16), MAX_RETRY_SECONDS) if failures else CHECK_SECONDS
    return base * random.uniform(1, 1.25)  # noqa: S311  # No secret, only spread.
