"""The programs that may run as MCP servers: those that the operator's file names, with fixed arguments."""

from pathlib import Path

import msgspec

from ai_agent.domain.errors import ConfigurationError

_HINT = 'As JSON, or the same in TOML: {"time": {"command": "/usr/bin/mcp-server-time", "arguments": []}}'


class StdioCommand(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`environment` names variables that the program is given, besides PATH and the language."""

    command: str
    arguments: list[str] = []
    environment: list[str] = []


def load_commands(path: Path | None) -> dict[str, StdioCommand]:
    """By name; none without a file. Raises ConfigurationError."""
    if path is None:
        return {}
    decode = msgspec.toml.decode if path.suffix == ".toml" else msgspec.json.decode
    try:
        commands = decode(path.read_bytes(), type=dict[str, StdioCommand])
    except (OSError, UnicodeError, msgspec.MsgspecError) as error:
        raise ConfigurationError(f"AI_AGENT_MCP_STDIO_COMMANDS: {path}: {error}", _HINT) from error
    for name, command in commands.items():
        if not Path(command.command).is_absolute():
            raise ConfigurationError(
                f"AI_AGENT_MCP_STDIO_COMMANDS: {name}: {command.command} is no absolute path", _HINT
            )
    return commands
