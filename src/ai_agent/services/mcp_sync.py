"""What a sync makes of the tools that an MCP server lists: rows that are new, rows that change, and what fails."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec

from ai_agent.domain.fields import JsonObject, new_id, now, to_json
from ai_agent.domain.json_schema import check_schema
from ai_agent.domain.mcp_servers import FailedTool, McpServer, McpSync
from ai_agent.domain.tools import BUILTINS, Tool, ToolKind

NAME_LENGTH = 64
DESCRIPTION_LENGTH = 4096
REMOTE_NAME_LENGTH = 256
TRIES = 9

_FOREIGN = re.compile(r"[^a-zA-Z0-9_-]")
_OLDER_DRAFTS = ("http://json-schema.org/draft-07/schema", "https://json-schema.org/draft/2019-09/schema")
_HINTS = ("readOnlyHint", "destructiveHint", "idempotentHint", "openWorldHint")


class Usable(msgspec.Struct, frozen=True):
    """A tool of a server's list that can be used, as its row holds it."""

    remote_name: str
    description: str | None
    schema: JsonObject
    config: JsonObject


class Plan(msgspec.Struct):
    """What a sync writes, and what it tells."""

    report: McpSync
    added: list[Tool] = []
    changed: list[Tool] = []


def usable(listed: Iterable[Any]) -> tuple[dict[str, Usable], list[FailedTool]]:
    """By the server's own names; of two with one name the first."""
    good: dict[str, Usable] = {}
    failed: list[FailedTool] = []
    for number, one in enumerate(listed):
        name = one.get("name") if isinstance(one, dict) else None
        if not isinstance(name, str) or not 0 < len(name) <= REMOTE_NAME_LENGTH:
            failed.append(FailedTool(f"[{number}]", f"Has no name of 1 to {REMOTE_NAME_LENGTH} characters"))
        elif name in good:
            failed.append(FailedTool(name, "Is listed twice"))
        elif (fault := _schema_fault(schema := _schema(one.get("inputSchema")))) is not None:
            failed.append(FailedTool(name, fault))
        else:
            good[name] = Usable(name, _description(one), schema, {"name": name, "annotations": _annotations(one)})
    return good, failed


def _schema(given: Any) -> Any:
    """Without the name of an older draft: what servers use of it is the same in ours, or is refused."""
    if isinstance(given, dict) and str(given.get("$schema", "")).rstrip("#") in _OLDER_DRAFTS:
        return {name: value for name, value in given.items() if name != "$schema"}
    return given


def _schema_fault(schema: Any) -> str | None:
    if not isinstance(schema, dict):
        return "Has no inputSchema"
    fault = next(iter(check_schema("inputSchema", schema)), None)
    return None if fault is None else f"{fault.field}: {fault.message}"


def _description(one: JsonObject) -> str | None:
    text = one.get("description") or one.get("title")
    return text[:DESCRIPTION_LENGTH] if isinstance(text, str) else None


def _annotations(one: JsonObject) -> JsonObject:
    given = one.get("annotations")
    return (
        {name: given[name] for name in _HINTS if isinstance(given.get(name), bool)} if isinstance(given, dict) else {}
    )


def planned(
    server: McpServer, present: Sequence[Tool], good: Mapping[str, Usable], failed: list[FailedTool], taken: set[str]
) -> Plan:
    """`present` are the server's rows, `taken` those of `names_wanted` that other tools have."""
    at = now()
    plan = Plan(McpSync([], [], [], failed, 0))
    rows = {msgspec.json.decode(tool.config)["name"]: tool for tool in present}
    for remote, row in rows.items():
        _bring_up(plan, row, good.get(remote), at)
    used = taken | BUILTINS.keys() | {tool.name for tool in present}
    for one in good.values():
        if one.remote_name not in rows:
            name = next((each for each in names(server.name, one.remote_name) if each not in used), None)
            if name is None:
                failed.append(FailedTool(one.remote_name, "All names that it could have here are taken"))
                continue
            used.add(name)
            plan.added.append(_new(server.id, name, one, at))
            plan.report.added.append(name)
    return plan


def _bring_up(plan: Plan, row: Tool, one: Usable | None, at: datetime) -> None:
    """What becomes of a row; its `enabled` and `requires_approval` are the owner's, whatever the server lists."""
    config = msgspec.json.decode(row.config)
    was_removed = "removed" in config
    if one is None:
        if was_removed:
            return
        gone = config | {"removed": {"enabled": row.enabled}}
        plan.changed.append(msgspec.structs.replace(row, config=to_json(gone), enabled=False, updated_at=at))
        plan.report.removed.append(row.name)
    elif was_removed or not _is_same(row, config, one):
        fresh = {"description": one.description, "schema": to_json(one.schema), "config": to_json(one.config)}
        enabled = config["removed"]["enabled"] if was_removed else row.enabled
        plan.changed.append(msgspec.structs.replace(row, **fresh, enabled=enabled, updated_at=at))
        (plan.report.added if was_removed else plan.report.changed).append(row.name)
    else:
        plan.report.unchanged += 1


def _is_same(row: Tool, config: JsonObject, one: Usable) -> bool:
    return (row.description, msgspec.json.decode(row.schema), config) == (one.description, one.schema, one.config)


def names(server: str, remote: str) -> Iterator[str]:
    """The names that a tool may have here, the best first: its own, with its server's before it, and numbered."""
    own = _FOREIGN.sub("_", remote)
    prefixed = f"{_FOREIGN.sub('_', server)[: NAME_LENGTH // 2]}__{own}"
    yield own[:NAME_LENGTH]
    yield prefixed[:NAME_LENGTH]
    for number in range(2, TRIES + 1):
        yield f"{prefixed[: NAME_LENGTH - 2]}_{number}"


def names_wanted(server: str, good: Iterable[str]) -> list[str]:
    """All names that a sync may give to tools of these names."""
    return list(dict.fromkeys(name for remote in good for name in names(server, remote)))


def _new(server_id: UUID, name: str, one: Usable, at: datetime) -> Tool:
    return Tool(
        id=new_id(),
        name=name,
        description=one.description,
        schema=to_json(one.schema),
        kind=ToolKind.MCP,
        config=to_json(one.config),
        mcp_server_id=server_id,
        enabled=True,
        requires_approval=False,
        metadata=to_json({}),
        created_at=at,
        updated_at=at,
    )
