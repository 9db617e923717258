"""What can go wrong between a client and its server."""

from typing import Any


class ClientError(Exception):
    """Base of all errors of the client; `message` is one line for people."""

    def __init__(self, message: str):
        super().__init__(message)
        self.message = message


class Unreachable(ClientError):
    """The server does not answer, or says itself that it cannot answer now. Whether it has heard is not known."""


class Refused(ClientError):
    """The server has said no. `code` is one of the contract's, `status` that of HTTP."""

    def __init__(self, message: str, code: str, status: int, details: dict[str, Any] | None = None):
        super().__init__(message)
        self.code = code
        self.status = status
        self.details = details or {}


class SubscriptionEnded(ClientError):
    """Nothing comes from a channel any more. `reason` is an error's code, or `revoked`, `deleted`."""

    def __init__(self, message: str, channel: str, reason: str):
        super().__init__(message)
        self.channel = channel
        self.reason = reason


class Closed(ClientError):
    """The connection is closed for good: connecting again would not help."""

    def __init__(self, code: int, reason: str, message: str = ""):
        super().__init__(f"{message or reason or 'The server has closed the connection'} ({code})")
        self.code = code
        self.reason = reason
