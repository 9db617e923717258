"""Tools of kind `mcp`: each is a tool of a registered server, called over the server's connection."""

import asyncio
from functools import partial
from typing import Any

from ai_agent.background import cancel_and_wait
from ai_agent.domain.tools import ToolSpec
from ai_agent.execution.mcp.failures import McpFailed, McpLost
from ai_agent.execution.mcp.pool import McpPool
from ai_agent.execution.mcp.results import output_of
from ai_agent.execution.run_state import Progress
from ai_agent.execution.tools import Call, Operation, ToolFailed, ToolUnavailable
from ai_agent.storage import mcp_servers
from ai_agent.storage.database import Database


class McpTools:
    def __init__(self, database: Database, pool: McpPool):
        self._database = database
        self._pool = pool

    def operation(self, spec: ToolSpec) -> Operation | None:
        return None if spec.mcp_server_id is None else partial(self._call, spec)

    async def _call(self, spec: ToolSpec, call: Call) -> Any:
        assert spec.mcp_server_id is not None  # noqa: S101  # else there is no operation
        asked = await mcp_servers.configuration(self._database.reader, call.owner_id, spec.mcp_server_id)
        if asked is None or not asked.enabled:
            raise ToolFailed("The MCP server of this tool is disabled")
        teller = _Teller(call)
        try:
            result = await self._pool.call(
                asked, spec.config["name"], spec.schema, call.arguments, again=spec.idempotent, tell=teller.hear
            )
        except McpLost as error:
            raise ToolUnavailable(f"{asked.name}: {error}") from error
        except McpFailed as error:
            raise ToolFailed(f"{asked.name}: {error}") from error
        finally:
            await teller.close()
        output, failed = output_of(result)
        if failed:
            raise ToolFailed(output)
        return output


class _Teller:
    """Passes on how far a call is, the newest only: a server may tell more than anybody can hear."""

    def __init__(self, call: Call):
        self._tell = call.tell
        self._latest: Progress | None = None
        self._telling: asyncio.Task[None] | None = None

    def hear(self, progress: Progress) -> None:
        self._latest = progress
        if self._telling is None or self._telling.done():
            self._telling = asyncio.create_task(self._tell_latest())

    async def _tell_latest(self) -> None:
        while (progress := self._latest) is not None:
            self._latest = None
            await self._tell(progress)

    async def close(self) -> None:
        await cancel_and_wait(self._telling)
