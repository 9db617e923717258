"""A tool that a model may call."""

from enum import StrEnum


class ToolKind(StrEnum):
    """`builtin` runs in the server; a `client` tool is run by the client, which posts the result."""

    BUILTIN = "builtin"
    CLIENT = "client"
