"""The server's own tools: small, safe, and at once."""

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

from ai_agent.domain.fields import JsonObject
from ai_agent.domain.tools import ToolSpec
from ai_agent.execution.calculator import Incalculable, calculate
from ai_agent.execution.message_search import MessageSearch
from ai_agent.execution.tools import Call, Operation, ToolFailed
from ai_agent.storage.database import Database


class BuiltinTools:
    def __init__(self, database: Database):
        self._operations: dict[str, Operation] = {
            "current_time": _current_time,
            "calculator": _calculator,
            "search_messages": MessageSearch(database),
        }

    def operation(self, spec: ToolSpec) -> Operation | None:
        return self._operations.get(spec.name)


async def _current_time(call: Call) -> JsonObject:
    name = call.arguments.get("timezone", "UTC")
    try:
        zone = UTC if name == "UTC" else ZoneInfo(name)
    except (KeyError, ValueError, OSError) as error:  # Nobody's zone, a path, a folder of zones.
        raise ToolFailed(f"There is no time zone {name!r}") from error
    moment = datetime.now(zone)
    return {"time": moment.isoformat(timespec="seconds"), "timezone": name, "weekday": moment.strftime("%A")}


async def _calculator(call: Call) -> JsonObject:
    try:
        value = calculate(call.arguments["expression"])
    except Incalculable as error:
        raise ToolFailed(str(error)) from error
    # JSON's numbers are exact up to here, as far as most who read them are concerned.
    return {"result": value if abs(value) < 2**53 else str(value)}
