"""The Model Context Protocol, as far as tools go: negotiation, list, call. Links carry the messages.

Revision 2026-07-28 is stateless: each request says who asks. Those before it begin with a handshake.
Source: modelcontextprotocol.io/specification.
"""

import asyncio
import base64
import itertools
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

from ai_agent.domain.fields import JsonObject
from ai_agent.execution.mcp.failures import McpLost, McpRefused, said
from ai_agent.execution.run_state import Progress

STATELESS = "2026-07-28"
HANDSHAKE = "2025-11-25"
KNOWN = frozenset({"2024-11-05", "2025-03-26", "2025-06-18", HANDSHAKE})
"""Revisions that a handshake may agree on."""
PROBE_SECONDS = 2.0
MOST_PAGES = 100
MOST_TOOLS = 2000

METHOD_NOT_FOUND = -32601
UNSUPPORTED_VERSION = -32022

_US = {"name": "ai-agent", "version": "1"}
_META = "io.modelcontextprotocol/"
_PLAIN = re.compile(r"[\x21-\x7e](?:[\x20-\x7e]*[\x21-\x7e])?")
_HEADER = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,128}")

Hear = Callable[[JsonObject], None]
"""Is told the notifications that come before an answer."""
Tell = Callable[[Progress], None]
"""Is told how far a call is."""


class Link(Protocol):
    """How messages get to one server. `stateless_first` says with which revision to begin."""

    stateless_first: bool

    async def exchange(self, request: JsonObject, headers: Mapping[str, str], hear: Hear) -> JsonObject:
        """The response to a request, with its `result` or its `error`. Raises McpFailed."""

    async def notify(self, notification: JsonObject, headers: Mapping[str, str]) -> None:
        """Raises McpFailed."""

    def farewell(self, notification: JsonObject, headers: Mapping[str, str]) -> None:
        """Sends a notification in the background, as well as it goes."""

    async def ended(self) -> None:
        """Waits until the server has gone, where that shows."""

    async def close(self) -> None:
        """Ends the link, and what it has begun; quickly, also when it is cancelled."""


class Connection:
    """A server that was agreed with on a revision. Its methods raise McpFailed, and have no time-out of their own."""

    def __init__(self, link: Link):
        self._link = link
        self._ids = itertools.count(1)
        self.version = ""
        self.capabilities: JsonObject = {}

    async def open(self) -> None:
        """Agrees on a revision. A child process is greeted first: one of an older revision may end at anything else."""
        first, second = (
            (self._discover, self._initialize) if self._link.stateless_first else (self._initialize, self._discover)
        )
        try:
            await first()
        except McpRefused as refused:
            try:
                await second()
            except McpRefused as again:
                raise (refused if refused.code == UNSUPPORTED_VERSION else again) from None

    async def _discover(self) -> None:
        try:
            async with asyncio.timeout(PROBE_SECONDS):
                result = await self._ask("server/discover", {}, STATELESS)
        except TimeoutError:
            raise McpRefused("The server did not say which revisions it speaks") from None
        except McpLost as lost:
            if lost.unsent:
                raise
            raise McpRefused(str(lost)) from lost  # A server of an older revision may answer anything.
        versions = result.get("supportedVersions")
        if not isinstance(versions, list) or STATELESS not in versions:
            raise McpRefused(f"The server does not speak revision {STATELESS}")
        self._agree(STATELESS, result)

    async def _initialize(self) -> None:
        params = {"protocolVersion": HANDSHAKE, "capabilities": {}, "clientInfo": _US}
        result = await self._ask("initialize", params, "")
        version = result.get("protocolVersion")
        if version not in KNOWN:
            raise McpRefused(f"The server speaks an unknown revision: {said(version)}")
        self._agree(version, result)
        await self._link.notify(_message("notifications/initialized", {}), self._headers())

    def _agree(self, version: str, result: JsonObject) -> None:
        capabilities = result.get("capabilities")
        self.version = version
        self.capabilities = capabilities if isinstance(capabilities, dict) else {}

    async def list_tools(self) -> list[Any]:
        """All that the server lists, as it lists them."""
        found: list[Any] = []
        cursor: object = None
        for _ in range(MOST_PAGES):
            page = await self._ask("tools/list", {} if cursor is None else {"cursor": cursor}, self.version)
            found += _list_of(page, "tools")
            if len(found) > MOST_TOOLS:
                raise McpLost(f"The server lists more than {MOST_TOOLS} tools")
            if not (cursor := page.get("nextCursor")):
                return found
        raise McpLost(f"The server's list has more than {MOST_PAGES} pages")

    async def call_tool(self, name: str, schema: JsonObject, arguments: JsonObject, tell: Tell | None) -> JsonObject:
        """What the server makes of a call. `schema` is the tool's; a revision wants some arguments as headers, too."""
        headers = {"mcp-name": _header_value(name), **_parameter_headers(schema, arguments)}
        params = {"name": name, "arguments": arguments}
        result = await self._ask("tools/call", params, self.version, headers, tell)
        if result.get("resultType", "complete") != "complete":
            raise McpRefused("The server wants more of its user, which an agent cannot give")
        return result

    async def ended(self) -> None:
        """Waits until the server has gone, where that shows."""
        await self._link.ended()

    async def close(self) -> None:
        await self._link.close()

    async def _ask(
        self,
        method: str,
        params: JsonObject,
        version: str,
        headers: Mapping[str, str] | None = None,
        tell: Tell | None = None,
    ) -> JsonObject:
        number = next(self._ids)
        meta: JsonObject = {} if tell is None else {"progressToken": number}
        told = {"mcp-protocol-version": version} if version else {}
        if version == STATELESS:
            meta |= {f"{_META}protocolVersion": version, f"{_META}clientInfo": _US, f"{_META}clientCapabilities": {}}
            told |= {"mcp-method": method, **(headers or {})}
        request = _message(method, params | ({"_meta": meta} if meta else {})) | {"id": number}
        try:
            response = await self._link.exchange(request, told, _hearing(number, tell))
        except asyncio.CancelledError:
            if method not in {"initialize", "server/discover"}:
                self._link.farewell(_message("notifications/cancelled", {"requestId": number}), told)
            raise
        return _result(response)

    def _headers(self) -> dict[str, str]:
        return {"mcp-protocol-version": self.version}


def _message(method: str, params: JsonObject) -> JsonObject:
    return {"jsonrpc": "2.0", "method": method} | ({"params": params} if params else {})


def _result(response: JsonObject) -> JsonObject:
    error = response.get("error")
    if isinstance(error, dict):
        code = error.get("code")
        raise McpRefused(f"The server answered: {said(error.get('message'))}", code if isinstance(code, int) else 0)
    result = response.get("result")
    if not isinstance(result, dict):
        raise McpLost("The server's answer is none of the protocol's")
    return result


def _list_of(result: JsonObject, name: str) -> list[Any]:
    value = result.get(name)
    if not isinstance(value, list):
        raise McpLost(f"The server's answer has no {name}")
    return value


def _hearing(number: int, tell: Tell | None) -> Hear:
    def hear(notification: JsonObject) -> None:
        params = notification.get("params")
        if tell is None or notification.get("method") != "notifications/progress" or not isinstance(params, dict):
            return
        done, total, message = params.get("progress"), params.get("total"), params.get("message")
        if params.get("progressToken") == number and isinstance(done, int | float):
            known = total if isinstance(total, int | float) else None
            tell(Progress(done, known, said(message) if isinstance(message, str) else None))

    return hear


def _parameter_headers(schema: JsonObject, arguments: JsonObject) -> dict[str, str]:
    """The arguments that the schema wants as headers, too (`x-mcp-header`), where intermediaries see them."""
    return {
        f"mcp-param-{header}": _header_value(_scalar(value))
        for header, value in _marked(schema, arguments)
        if isinstance(value, str | int)  # A boolean is an int, too.
    }


def _marked(schema: Any, value: Any) -> Iterator[tuple[str, Any]]:
    properties = schema.get("properties") if isinstance(schema, dict) else None
    if not isinstance(properties, dict) or not isinstance(value, dict):
        return
    for name, inner in properties.items():
        if name not in value or not isinstance(inner, dict):
            continue
        header = inner.get("x-mcp-header")
        if isinstance(header, str) and _HEADER.fullmatch(header):
            yield header, value[name]
        yield from _marked(inner, value[name])


def _scalar(value: str | int) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _header_value(text: str) -> str:
    """A text that survives as a header: as it is, or marked as base64."""
    if _PLAIN.fullmatch(text) and not (text.startswith("=?base64?") and text.endswith("?=")):
        return text
    return f"=?base64?{base64.b64encode(text.encode()).decode()}?="


def answer_to(request: JsonObject) -> JsonObject:
    """What a server is answered that asks something of us: it is heard, and there is nothing that we could do."""
    reply: JsonObject = {"jsonrpc": "2.0", "id": request.get("id")}
    if request.get("method") == "ping":
        return reply | {"result": {}}
    return reply | {"error": {"code": METHOD_NOT_FOUND, "message": "Not offered by this client"}}
