"""What can go wrong with an MCP server. Each message is for users; what the server itself said is bounded in it."""

SAID_CHARACTERS = 1000


class McpFailed(Exception):
    """A server was not of use."""


class McpRefused(McpFailed):
    """The server is there, and answered with an error. `code` is JSON-RPC's."""

    def __init__(self, message: str, code: int = 0):
        super().__init__(message)
        self.code = code


class McpLost(McpFailed):
    """The server did not answer, or not as one does. `unsent` says that it surely never began what it was asked."""

    def __init__(self, message: str, *, unsent: bool = False):
        super().__init__(message)
        self.unsent = unsent


def said(text: object) -> str:
    """What a server said, as far as it is repeated."""
    words = str(text)
    return words if len(words) <= SAID_CHARACTERS else f"{words[:SAID_CHARACTERS]}…"
